"""The order of rows: a permutation, by seed and pass, that can be computed at any place."""

import numpy as np
import pytest

from edgepeft import limits
from edgepeft.data.shuffle import feistel, permuted


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 15, 16, 17, 1000, 4096, 4097, 65_537])
def test_every_number_comes_once(rows: int) -> None:
    """Whatever the count, next to powers of two and of four too."""
    order = feistel(np.arange(rows, dtype=np.uint64), rows, [1, 2])
    assert np.array_equal(np.sort(order), np.arange(rows))


def test_a_part_is_the_part_of_the_whole() -> None:
    """No place depends on which others are asked for."""
    whole = feistel(np.arange(10_000, dtype=np.uint64), 10_000, [3])
    parts = [feistel(np.arange(i, i + 100, dtype=np.uint64), 10_000, [3]) for i in range(0, 10_000, 100)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_the_order_looks_random() -> None:
    """No trend, neighbours that go apart, and each key with an order of its own."""
    rows = 20_000
    places = np.arange(rows, dtype=np.uint64)
    order = feistel(places, rows, [0, 0])
    assert abs(np.corrcoef(np.arange(rows), order)[0, 1]) < 0.03
    assert np.mean(np.abs(np.diff(order))) == pytest.approx(rows / 3, rel=0.03)
    parity = np.mean((order[:-1] % 2) == (order[1:] % 2))
    assert parity == pytest.approx(0.5, abs=0.02)
    for other in ([0, 1], [1, 0]):
        assert np.mean(feistel(places, rows, other) == order) < 0.001


@pytest.mark.parametrize("drawn", [1, 1 << 20])
def test_seed_and_pass_decide(monkeypatch: pytest.MonkeyPatch, drawn: int) -> None:
    """Of few rows and of many: the same again for the same, another for another."""
    monkeypatch.setattr(limits, "MAX_DRAWN_ROWS", drawn)

    def order(seed: int, epoch: int) -> list[int]:
        return permuted(0, 50, 50, seed, epoch).tolist()

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2**63 - 1) for epoch in (0, 1)}) == 6
    assert permuted(10, 20, 50, 0, 0).tolist() == order(0, 0)[10:20]


def test_a_hundred_million_rows_take_no_memory() -> None:
    """A batch of them is computed alone."""
    picked = permuted(50_000_000, 50_000_008, 100_000_000, 5, 0)
    assert len(set(picked.tolist())) == 8
    assert picked.min() >= 0
    assert picked.max() < 100_000_000
