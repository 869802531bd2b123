"""Choosing the next token from a model's scores."""

from collections.abc import Callable

import numpy as np

from edgepeft.errors import ArgumentError
from edgepeft.limits import MAX_NEW_TOKENS
from edgepeft.tensors import Array


def check_arguments(max_new_tokens: int, temperature: float) -> None:
    """Refuses what makes no sense.

    Raises:
        ArgumentError: One of them is out of range.
    """
    if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
        raise ArgumentError(f"max_new_tokens is {max_new_tokens}; expected 1 to {MAX_NEW_TOKENS}.")
    if not 0 <= temperature < float("inf"):
        raise ArgumentError(f"temperature is {temperature}; expected 0 (always the best token) or more.")


def chooser(temperature: float, seed: int) -> Callable[[Array], int]:
    """A function from scores, [vocabulary] float32, to a token: the best one, or a draw at a temperature."""
    generator = np.random.default_rng(seed)

    def choose(scores: Array) -> int:
        if temperature == 0:
            return int(np.argmax(scores))
        scaled = scores.astype(np.float64) / temperature
        weights = np.exp(scaled - scaled.max())
        return int(generator.choice(len(weights), p=weights / weights.sum()))

    return choose
