"""Arrays of a stated type, from whatever a user gives."""

from typing import Any

import numpy as np

from edgepeft.tensors import Array

#: Kinds of array, as NumPy's `dtype.kind`, that each kind can hold without changing what they mean.
_HELD_BY = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}


def convert(value: Any, dtype: str) -> Array:
    """A C-contiguous array of a dtype; one that is already so is not copied.

    Args:
        value: An array, a number, or nested lists of numbers.
        dtype: A dtype that bundles know, such as "int64".

    Raises:
        ValueError: The value is ragged, or would not keep its meaning: a fraction or a text as a whole number,
            or a number that is out of range.
    """
    given = np.asarray(value)
    target = np.dtype(dtype)
    if given.size and given.dtype.kind not in _HELD_BY[target.kind]:
        raise ValueError(f"it holds {_kind(given)}")
    with np.errstate(over="ignore"):
        array = np.asarray(given, dtype=target, order="C")
    if target.kind in "iu" and not np.array_equal(array, given):
        raise ValueError("it holds a number that is out of range")
    return array


def _kind(array: Array) -> str:
    return "text" if array.dtype.kind in "US" else str(array.dtype)
