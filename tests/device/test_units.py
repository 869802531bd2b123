"""Numbers as people read them."""

import pytest

from edgepeft.units import duration_text, rate_text, size_text


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "0 bytes"),
        (264, "264 bytes"),
        (7168, "7.2 kB"),
        (1_843_200, "1.84 MB"),
        (82_670_000, "82.7 MB"),
        (541_980_000, "542 MB"),
        (1_235_000_000, "1,235 MB"),
        (16_777_216_000, "16.8 GB"),
    ],
)
def test_sizes(size: int, told: str) -> None:
    """Powers of ten; small ones are no 0.00 MB."""
    assert size_text(size) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "0 ms"),
        (0.00213, "2.13 ms"),
        (0.9999, "1 s"),
        (1.234, "1.23 s"),
        (59.97, "1 min 0 s"),
        (61, "1 min 1 s"),
        (7320, "2 h 2 min"),
    ],
)
def test_durations(seconds: float, told: str) -> None:
    """Three digits, and never a power of ten."""
    assert duration_text(seconds) == told


@pytest.mark.parametrize(
    ("rate", "told"), [(0.123456, "0.123"), (7.25, "7.25"), (99.96, "100"), (9440, "9,440")]
)
def test_rates(rate: float, told: str) -> None:
    """The same."""
    assert rate_text(rate) == told
