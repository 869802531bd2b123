"""The order of rows: a function of the seed and the pass alone, in memory that does not grow with the rows."""

from functools import lru_cache

import numpy as np

from edgepeft import limits
from edgepeft.tensors import Array

#: Rounds of the Feistel network; four already make a strong pseudo-random permutation of functions that are random.
_ROUNDS = 6


def permuted(start: int, end: int, rows: int, seed: int, epoch: int) -> Array:
    """Which rows stand at the places from `start` to `end` of a pass over all rows in random order, int64."""
    if rows <= limits.MAX_DRAWN_ROWS:
        return _drawn(rows, seed, epoch)[start:end]
    return feistel(np.arange(start, end, dtype=np.uint64), rows, [seed, epoch])


@lru_cache(maxsize=2)
def _drawn(rows: int, seed: int, epoch: int) -> Array:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def feistel(places: Array, rows: int, key: list[int]) -> Array:
    """A pseudo-random permutation of the numbers below `rows`, computed for some of them only.

    A Feistel network (Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions",
    SIAM J. Comput. 17(2), 1988) permutes the numbers of 2h bits; what it takes out of the range goes through it
    again until it comes back ("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
    2002, section 4). At most three of four numbers are out of the range, so that four turns are enough on average.

    Args:
        places: The numbers to permute, uint64.
        rows: How many there are in all; at least 2.
        key: What the permutation depends on.

    Returns:
        Their images, int64.
    """
    half = np.uint64(((rows - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.Generator(np.random.PCG64(key)).integers(2**64, size=_ROUNDS, dtype=np.uint64)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_mixed(right ^ round_key) & mask)
        values[outside] = (left << half) | right
        outside = values >= rows
    return values.astype(np.int64)


def _mixed(values: Array) -> Array:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): each bit of it depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed
