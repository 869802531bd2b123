"""Learning-rate schedules, by hand; tests/parity compares them with transformers'."""

import pytest

from edgepeft import schedules


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 2, [0, 0.5, 1, 1, 1]),
        ("linear", 0, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 3, [0, 1 / 3, 2 / 3, 1, 0.5]),
        ("cosine", 1, [0, 1, 0.853553, 0.5, 0.146447]),
        ("linear", 9, [0, 1 / 9, 2 / 9, 3 / 9, 4 / 9]),
    ],
)
def test_factors_of_five_steps(schedule: str, warmup: int, expected: list[float]) -> None:
    """The first update of a warm-up is made with 0, the first after it with the full rate."""
    factors = [schedules.factor(schedule, step, 5, warmup) for step in range(1, 6)]
    assert factors == pytest.approx(expected, abs=1e-6)
