"""Which rows make which batch: a function of the seed alone, so that a run can go on at any step."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgepeft import limits
from edgepeft.arguments import TrainingArguments, steps_per_epoch
from edgepeft.data import shuffle
from edgepeft.tensors import Array

#: Batches of rows that are sorted by length at once, as Hugging Face has it.
_WINDOW_BATCHES = 50

#: Distinguishes the order of batches from the order of rows.
_BATCHES = 1

#: The lengths of rows, by their indices.
Lengths = Callable[[Sequence[int]], Sequence[int]]


def rows_of_step(
    step: int, rows: int, arguments: TrainingArguments, lengths: Lengths | None = None
) -> Iterator[list[int]]:
    """Indices of the rows of each batch of a step.

    Args:
        step: Counted from 1.
        rows: How many rows there are.
        arguments: The seed, the sizes, and whether rows are grouped by length.
        lengths: The lengths of some rows, for grouping.
    """
    epoch, place = divmod(step - 1, steps_per_epoch(rows, arguments))
    size = arguments.batch_size
    start = place * size * arguments.gradient_accumulation
    end = min(rows, start + size * arguments.gradient_accumulation)
    if arguments.group_by_length:
        assert lengths is not None
        picked = _grouped(start, end, rows, epoch, arguments, lengths)
    else:
        picked = shuffle.permuted(start, end, rows, arguments.seed, epoch).tolist()
    return (picked[index : index + size] for index in range(0, end - start, size))


def _grouped(
    start: int, end: int, rows: int, epoch: int, arguments: TrainingArguments, lengths: Lengths
) -> list[int]:
    """The rows at some places of a pass in which neighbours are about equally long."""
    size = arguments.batch_size
    window = size * max(1, min(_WINDOW_BATCHES, limits.MAX_WINDOW_ROWS // size))
    first = start - start % window
    found: list[int] = []
    for begin in range(first, end, window):
        order = shuffle.permuted(begin, min(rows, begin + window), rows, arguments.seed, epoch)
        order = _by_length(order, lengths, size, [arguments.seed, epoch, _BATCHES, begin])
        found += order.tolist()
    return found[start - first : end - first]


def _by_length(order: Array, lengths: Lengths, size: int, key: list[int]) -> Array:
    """Sorts rows by length, and mixes the batches that they make; one that is not full stays the last."""
    longest_first = order[np.argsort(-np.asarray(lengths(order.tolist())), kind="stable")]
    full = len(order) // size
    mixed = np.random.Generator(np.random.PCG64(key)).permutation(full)
    batches = longest_first[: full * size].reshape(full, size)[mixed]
    return np.concatenate([batches.reshape(-1), longest_first[full * size :]])
