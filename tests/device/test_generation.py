"""Choosing a token from scores."""

import math

import numpy as np
import pytest

from edgepeft.errors import ArgumentError
from edgepeft.generation import Sampling, chooser, probabilities

#: Scores whose shares at temperature 1 are 0.1, 0.4, 0.2 and 0.3.
SCORES = np.log(np.array([0.1, 0.4, 0.2, 0.3], dtype=np.float32))


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 99}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.3}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_k": 3, "top_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_shares_of_each_token(settings: dict[str, float], shares: list[float]) -> None:
    """Temperature sharpens; top_k and top_p keep the best, and what they keep adds up to one."""
    sampling = Sampling(**({"temperature": 1.0} | settings))
    np.testing.assert_allclose(probabilities(SCORES, sampling), shares, rtol=1e-5)


def test_large_scores_do_not_overflow() -> None:
    """float32 scores of any size at a temperature near zero."""
    shares = probabilities(np.array([3e38, -3e38, 3e38], np.float32), Sampling(temperature=1e-6))
    np.testing.assert_allclose(shares, [0.5, 0, 0.5])


def test_draws_come_as_often_as_they_should() -> None:
    """Four thousand draws, within four standard deviations, and none that top_k leaves out."""
    choose = chooser(Sampling(temperature=1.0, top_k=2, seed=1))
    counts = np.bincount([choose(SCORES) for _ in range(4000)], minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(counts[1] - 4000 * 4 / 7) < 4 * math.sqrt(4000 * 4 / 7 * 3 / 7)


def test_the_seed_decides() -> None:
    """The same seed draws the same tokens, another one others; temperature 0 never draws."""
    draws = [[choose(SCORES) for _ in range(30)] for choose in (_chooser(1), _chooser(1), _chooser(2))]
    assert draws[0] == draws[1] != draws[2]
    greedy = chooser(Sampling(top_k=3, top_p=0.9, seed=4))
    assert {greedy(SCORES) for _ in range(10)} == {1}


def _chooser(seed: int):
    return chooser(Sampling(temperature=1.0, seed=seed))


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"seed": -1},
    ],
)
def test_settings_out_of_range(setting: dict[str, float]) -> None:
    """The message names the setting and what is expected."""
    with pytest.raises(ArgumentError, match=f"{next(iter(setting))} is .*; expected"):
        Sampling(**setting)
