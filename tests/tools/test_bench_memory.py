"""The prediction of a training's memory, against what one takes."""

from pathlib import Path

import pytest

from tools.bench_memory import MOST_OVER, MOST_UNDER, Case, cases


@pytest.mark.parametrize("name", ["conv-net", "tiny-bert", "tiny-llama", "wide"])
def test_small_models(bundles: Path, name: str) -> None:
    """Two sizes each, within the bounds; the larger takes more by both accounts."""
    small, large = cases(bundles / name, [1, 64], [64])
    assert small.predicted < large.predicted
    for case in (small, large):
        assert -MOST_UNDER <= case.error <= MOST_OVER, case.line
    assert (small.length is None) == (name in ("conv-net", "wide"))


def test_a_line_of_the_table() -> None:
    """In MB, with the error's sign."""
    assert Case(4, 128, 900e6, 1000e6).line == "| 4 | 128 | 900 | 1,000 | -10% |"
    assert Case(4, None, 1200e6, 1000e6).line == "| 4 |  | 1,200 | 1,000 | +20% |"
