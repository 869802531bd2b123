"""Choosing the next token from a model's scores."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgepeft.errors import ArgumentError, EngineError
from edgepeft.limits import MAX_NEW_TOKENS
from edgepeft.tensors import Array

#: Least and most that a repetition penalty may be: far beyond what is of use, and far from an overflow.
MIN_REPETITION_PENALTY = 0.01
MAX_REPETITION_PENALTY = 100.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose a token.

    Attributes:
        temperature: 0 takes the best token every time; more draws, the higher the wilder.
        top_k: Draw among this many best tokens only.
        top_p: Draw among the best tokens that together have this probability only.
        repetition_penalty: More than 1 makes tokens that were there before less likely (Keskar et al., "CTRL",
            2019, section 4.1).
        seed: Seed of the draws.

    Raises:
        ArgumentError: A setting is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ArgumentError(
                f"temperature is {self.temperature}; expected 0 (always the best token) or more."
            )
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                raise ArgumentError(f"{name} is {value!r}; expected a whole number.")
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(f"top_k is {self.top_k}; expected 1 or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p is {self.top_p}; expected more than 0 and at most 1.")
        if not MIN_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY:
            raise ArgumentError(
                f"repetition_penalty is {self.repetition_penalty}; expected {MIN_REPETITION_PENALTY} to "
                f"{MAX_REPETITION_PENALTY}."
            )
        if self.seed < 0:
            raise ArgumentError(f"seed is {self.seed}; expected 0 or more.")


def check_length(max_new_tokens: int) -> None:
    """Refuses a length that makes no sense.

    Raises:
        ArgumentError: It is out of range.
    """
    if type(max_new_tokens) is not int or not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
        raise ArgumentError(f"max_new_tokens is {max_new_tokens}; expected 1 to {MAX_NEW_TOKENS}.")


def chooser(sampling: Sampling) -> Callable[[Array, Sequence[int]], int]:
    """A function from scores, [vocabulary] float32, and the text's tokens to the next; each call draws anew."""
    generator = np.random.Generator(np.random.PCG64(sampling.seed))

    def choose(scores: Array, seen: Sequence[int]) -> int:
        if not np.isfinite(scores.max()):
            raise EngineError(
                "the scores of the next token hold NaN or infinity. Look at the adapter's training."
            )
        if sampling.repetition_penalty != 1:
            scores = penalized(scores, seen, sampling.repetition_penalty)
        if sampling.temperature == 0:
            return int(np.argmax(scores))
        return int(generator.choice(len(scores), p=probabilities(scores, sampling)))

    return choose


def penalized(scores: Array, seen: Sequence[int], penalty: float) -> Array:
    """Scores with those of seen tokens made smaller: positive ones divided, negative ones multiplied."""
    result = scores.copy()
    ids = np.unique(np.asarray(seen, dtype=np.int64))
    result[ids] = np.where(scores[ids] > 0, scores[ids] / penalty, scores[ids] * penalty)
    return result


def probabilities(scores: Array, sampling: Sampling) -> Array:
    """Probability of each token, [vocabulary] float64: by temperature, then the best k, then the best p."""
    with np.errstate(over="ignore"):  # at a temperature near 0 all but the best are infinitely far below it
        scaled = (scores.astype(np.float64) - float(scores.max())) / sampling.temperature
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


def pieces(
    tokens: Iterable[int], decode: Callable[[Sequence[int]], str], stop: Sequence[str]
) -> Iterator[str]:
    """Turns tokens into text as they come.

    Text is held back while it may be half of a character, or the start of a text that ends the answer.

    Args:
        tokens: The answer's tokens.
        decode: The text of some tokens in a row.
        stop: Texts that end the answer, and are not part of it.
    """
    ids: list[int] = []  # those that are decoded again: the last whole characters, and what came after them
    context = known = 0  # how many tokens and characters of these are in the text already
    before = text = ""
    told = 0
    for token in tokens:
        ids.append(token)
        decoded = decode(ids)
        text = before + decoded[known:]
        ends = [place for place in map(text.find, stop) if place >= 0]
        if ends:
            text = text[: min(ends)]
            break
        sure = len(text) - _unsure(text, stop)
        if sure > told:
            yield text[told:sure]
            told = sure
        if len(decoded) > known and not decoded.endswith(_INCOMPLETE):
            before, told = text[told:], 0
            ids = ids[context:]  # some decoders write a token otherwise where none is before it
            context, known = len(ids), len(decode(ids))
            text = before
    if len(text) > told:
        yield text[told:]


#: What a tokenizer gives for bytes that are no whole character yet.
_INCOMPLETE = "\ufffd"


def _unsure(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may still change, or may begin a text that ends the answer."""
    whole = text.rstrip(_INCOMPLETE)
    half = len(text) - len(whole)  # may become what goes on with a text that is begun before it
    return max(_begun(text, stop), half + _begun(whole, stop))


def _begun(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end are the longest start of a text that ends the answer."""
    sizes = (
        size
        for each in stop
        for size in range(1, min(len(each), len(text) + 1))
        if text.endswith(each[:size])
    )
    return max(sizes, default=0)
