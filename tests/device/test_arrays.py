"""Arrays of a stated type: what is taken, and what is refused rather than changed."""

import numpy as np
import pytest

from edgepeft.arrays import convert


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1, 2], "int64"),
        (np.array([1, 2], np.int8), "int64"),
        (np.array([1, 2], np.uint64), "int32"),
        (np.array([True, False]), "int64"),
        ([1, 2], "float32"),
        (np.array([0.5]), "float32"),
        ([], "int64"),
        (3, "int64"),
        ([True], "bool"),
        ([255], "uint8"),
    ],
)
def test_numbers_that_keep_their_meaning(value: object, dtype: str) -> None:
    """The values and the shape stay as they are; the dtype is the one that was asked for."""
    array = convert(value, dtype)
    assert array.dtype == dtype
    assert array.shape == np.shape(value)
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, np.asarray(value))


def test_an_array_that_fits_is_not_copied() -> None:
    """Large inputs cost nothing; a transposed one is brought in order."""
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(convert(array, "float32"), array)
    turned = convert(array.T, "float32")
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, array.T)


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        ([1.5], "int64", "holds float64"),
        ([1.0], "int64", "holds float64"),
        (["7"], "int64", "holds text"),
        (["7"], "float32", "holds text"),
        ([None], "float32", "holds object"),
        ([2**70], "int64", "holds object"),
        ([2**40], "int32", "out of range"),
        ([-1], "uint8", "out of range"),
        (np.array([2**63], np.uint64), "int64", "out of range"),
        ([1], "bool", "holds int64"),
        ([1j], "float32", "holds complex128"),
        ([[1], [2, 3]], "int64", "inhomogeneous"),
    ],
)
def test_numbers_that_would_change(value: object, dtype: str, words: str) -> None:
    """Nothing is rounded, wrapped around or parsed."""
    with pytest.raises(ValueError, match=words):
        convert(value, dtype)
