"""Batches: each row once a pass, groups of about equal length, and any step on its own."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

import edgepeft
from edgepeft import limits
from edgepeft.arguments import steps_per_epoch
from edgepeft.data import rows_of_step


def settings(**changes: object) -> edgepeft.TrainingArguments:
    return edgepeft.TrainingArguments(**({"batch_size": 4, "seed": 3} | changes))


def lengths(indices: Sequence[int]) -> list[int]:
    """A length for each row, from 1 to 400, most of them short."""
    return [1 + int(400 * ((index * 0.618034) % 1) ** 3) for index in indices]


def epoch(rows: int, arguments: edgepeft.TrainingArguments, first: int = 1) -> list[list[int]]:
    steps = range(first, first + steps_per_epoch(rows, arguments))
    return [pick for step in steps for pick in rows_of_step(step, rows, arguments, lengths)]


def padding(batches: list[list[int]]) -> int:
    """Places of the padded batches that hold no token."""
    return sum(sum(max(sizes) - size for size in sizes) for sizes in map(lengths, batches))


@pytest.mark.parametrize("grouped", [0, 1])
@pytest.mark.parametrize("drawn", [1, 1 << 20])
@pytest.mark.parametrize(
    ("rows", "size", "accumulation"), [(11, 2, 2), (4, 4, 1), (3, 8, 2), (1003, 4, 3), (450, 7, 5), (2, 1, 1)]
)
def test_a_pass_takes_every_row_once(
    monkeypatch: pytest.MonkeyPatch, rows: int, size: int, accumulation: int, drawn: int, grouped: int
) -> None:
    """However rows are ordered and grouped, in every pass, with no batch too large."""
    monkeypatch.setattr(limits, "MAX_DRAWN_ROWS", drawn)
    monkeypatch.setattr(limits, "MAX_WINDOW_ROWS", 40)
    arguments = settings(batch_size=size, gradient_accumulation=accumulation, group_by_length=bool(grouped))
    for first in (1, 1 + steps_per_epoch(rows, arguments)):
        batches = epoch(rows, arguments, first)
        assert sorted(index for pick in batches for index in pick) == list(range(rows))
        assert all(len(pick) == size for pick in batches[:-1])
        assert 0 < len(batches[-1]) <= size


def test_grouping_pads_less() -> None:
    """Rows of unequal length: less than a tenth of the padding; the order of batches stays mixed."""
    rows = 4000
    apart, grouped = epoch(rows, settings()), epoch(rows, settings(group_by_length=True))
    assert padding(grouped) < padding(apart) / 10
    means = [np.mean(lengths(pick)) for pick in grouped]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.1
    neighbours = [abs(one - other) for one, other in itertools.pairwise(means)]
    assert np.mean(neighbours) > 0.5 * np.std(means)


def test_a_step_is_a_function_of_its_number() -> None:
    """Asked for alone, or in another order, it has the same rows; another pass and another seed have others."""
    arguments = settings(group_by_length=True, gradient_accumulation=2)
    steps = {step: list(rows_of_step(step, 999, arguments, lengths)) for step in range(1, 300)}
    for step in (299, 7, 126, 125, 124):
        assert list(rows_of_step(step, 999, arguments, lengths)) == steps[step]
    assert steps[1] != steps[126]
    other = settings(group_by_length=True, gradient_accumulation=2, seed=4)
    assert list(rows_of_step(1, 999, other, lengths)) != steps[1]


def test_a_window_is_bounded() -> None:
    """No more lengths are asked for at once than the limit, unless a single batch is larger."""
    asked: list[int] = []

    def told(indices: Sequence[int]) -> list[int]:
        asked.append(len(indices))
        return lengths(indices)

    for size, most in ((4, 200), (100, 4000), (3000, 3000), (5000, 5000)):
        asked.clear()
        list(rows_of_step(1, 10**7, settings(batch_size=size, group_by_length=True), told))
        assert asked == [most]
