"""Choosing the next token from a model's scores."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgepeft.errors import ArgumentError
from edgepeft.limits import MAX_NEW_TOKENS
from edgepeft.tensors import Array


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose a token.

    Attributes:
        temperature: 0 takes the best token every time; more draws, the higher the wilder.
        top_k: Draw among this many best tokens only.
        top_p: Draw among the best tokens that together have this probability only.
        seed: Seed of the draws.

    Raises:
        ArgumentError: A setting is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ArgumentError(
                f"temperature is {self.temperature}; expected 0 (always the best token) or more."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(f"top_k is {self.top_k}; expected 1 or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p is {self.top_p}; expected more than 0 and at most 1.")
        if self.seed < 0:
            raise ArgumentError(f"seed is {self.seed}; expected 0 or more.")


def check_length(max_new_tokens: int) -> None:
    """Refuses a length that makes no sense.

    Raises:
        ArgumentError: It is out of range.
    """
    if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
        raise ArgumentError(f"max_new_tokens is {max_new_tokens}; expected 1 to {MAX_NEW_TOKENS}.")


def chooser(sampling: Sampling) -> Callable[[Array], int]:
    """A function from scores, [vocabulary] float32, to a token; each call draws anew."""
    generator = np.random.Generator(np.random.PCG64(sampling.seed))

    def choose(scores: Array) -> int:
        if sampling.temperature == 0:
            return int(np.argmax(scores))
        return int(generator.choice(len(scores), p=probabilities(scores, sampling)))

    return choose


def probabilities(scores: Array, sampling: Sampling) -> Array:
    """Probability of each token, [vocabulary] float64: by temperature, then the best k, then the best p."""
    scaled = scores.astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    weights = np.exp(scaled[order] - scaled[order[0]])
    if sampling.top_k is not None:
        weights[sampling.top_k :] = 0
    shares = weights / weights.sum()
    if sampling.top_p is not None:
        # A token stays as long as those before it do not reach p: the best one always does.
        shares[np.cumsum(shares) - shares >= sampling.top_p] = 0
        shares /= shares.sum()
    result: Array = np.zeros_like(shares)
    result[order] = shares
    return result
