"""Choosing a token from scores."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from edgepeft.errors import ArgumentError, EngineError
from edgepeft.generation import Sampling, chooser, penalized, pieces, probabilities

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
    counts = np.bincount([choose(SCORES, []) for _ in range(4000)], minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(counts[1] - 4000 * 4 / 7) < 4 * math.sqrt(4000 * 4 / 7 * 3 / 7)


def test_the_seed_decides() -> None:
    """The same seed draws the same tokens, another one others; temperature 0 never draws."""
    draws = [[choose(SCORES, []) for _ in range(30)] for choose in (_chooser(1), _chooser(1), _chooser(2))]
    assert draws[0] == draws[1] != draws[2]
    greedy = chooser(Sampling(top_k=3, top_p=0.9, seed=4))
    assert {greedy(SCORES, []) for _ in range(10)} == {1}


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
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-46},
        {"repetition_penalty": 1e40},
        {"repetition_penalty": math.nan},
        {"seed": -1},
    ],
)
def test_settings_out_of_range(setting: dict[str, float]) -> None:
    """The message names the setting and what is expected."""
    with pytest.raises(ArgumentError, match=f"{next(iter(setting))} is .*; expected"):
        Sampling(**setting)


def test_the_penalty_makes_what_was_said_less_likely() -> None:
    """A positive score of a seen token is divided, a negative one multiplied, once however often it was seen."""
    scores = np.array([2.0, -2.0, 1.5, -1.0], np.float32)
    np.testing.assert_allclose(penalized(scores, [0, 1, 0, 1], 2.0), [1.0, -4.0, 1.5, -1.0])
    assert scores.tolist() == [2.0, -2.0, 1.5, -1.0]


def test_the_penalty_changes_a_choice() -> None:
    """The best token is taken until it was there before."""
    choose = chooser(Sampling(repetition_penalty=1.5))
    scores = np.array([0.1, 1.0, 0.9], np.float32)
    assert choose(scores, []) == 1
    assert choose(scores, [1]) == 2


def characters(text: str) -> tuple[list[int], Callable[[Sequence[int]], str]]:
    """A text's bytes as tokens, and what gives their text: a replacement character for half of one."""
    return list(text.encode()), lambda ids: bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello there", [], "hello there"),
        ("hello there", ["th"], "hello "),
        ("hello there", ["zz"], "hello there"),
        ("hello there", ["the", "lo"], "hel"),
        ("hello", ["hello"], ""),
        ("a\nUser", ["\nUser:"], "a\nUser"),
        ("ghijk", ["ghijkl", "ij"], "gh"),
        ("naïve ☕ 🎉", ["🎉"], "naïve ☕ "),
        ("cafe café.", ["fé"], "cafe ca"),
        ("cafe cafë.", ["fé"], "cafe cafë."),
        ("a\ufffdb", ["\ufffdc"], "a\ufffdb"),
    ],
)
def test_pieces_are_the_text_before_the_first_stop(text: str, stop: list[str], expected: str) -> None:
    """Whatever the pieces, together they are the answer, and none holds part of a text that ends it."""
    tokens, decode = characters(text)
    assert "".join(pieces(tokens, decode, stop)) == expected


def test_pieces_come_as_soon_as_they_are_sure() -> None:
    """A piece a token, but half of a character and the start of a stop text wait for what follows."""
    tokens, decode = characters("aé-b--c")
    assert list(pieces(tokens, decode, ["--c"])) == ["a", "é", "-b"]


def test_a_stop_text_is_not_shown_before_its_last_character_is_whole() -> None:
    """What begins it waits for the rest of a character that may end it."""
    tokens, decode = characters("café")
    assert list(pieces(tokens, decode, ["fé"])) == ["c", "a"]


def test_each_token_is_decoded_a_few_times() -> None:
    """However long the answer is, and with stop texts too."""
    tokens, decode = characters("naïve ☕ " * 500)
    sizes: list[int] = []

    def counted(ids: Sequence[int]) -> str:
        sizes.append(len(ids))
        return decode(ids)

    assert "".join(pieces(tokens, counted, ["\nUser:"])) == "naïve ☕ " * 500
    assert sum(sizes) < 10 * len(tokens)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_a_tokenizer_whose_words_begin_with_a_space(seed: int) -> None:
    """Its decoder leaves out the first space, and takes bytes for characters as long as all in a row are some."""
    spelt = {text: [f"<0x{byte:02X}>" for byte in text.encode()] for text in "☕é"}
    words = ["▁", "▁▁", "▁he", "llo", "▁a", "<s>"]
    vocabulary = [*words, *(byte for all_bytes in spelt.values() for byte in all_bytes)]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(vocabulary)}, [], byte_fallback=True)
    )
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    drawn = np.random.default_rng(seed).choice([*words, *spelt], 200)
    ids = [tokenizer.token_to_id(token) for word in drawn for token in spelt.get(word, [word])]
    assert "".join(pieces(ids, tokenizer.decode, ["never"])) == tokenizer.decode(ids)


def test_nothing_is_asked_for_after_the_end() -> None:
    """The stop text ends the tokens too: the rest is never computed."""
    taken: list[int] = []

    def source() -> Iterator[int]:
        for token in b"abcdef":
            taken.append(token)
            yield token

    assert "".join(pieces(source(), characters("")[1], ["c"])) == "ab"
    assert bytes(taken) == b"abc"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_not_finite_are_told(temperature: float) -> None:
    """NaN is no answer, and not an empty one either."""
    choose = chooser(Sampling(temperature=temperature))
    with pytest.raises(EngineError, match="NaN or infinity"):
        choose(np.array([1.0, math.nan, 2.0], np.float32), [])


def test_a_temperature_near_zero_takes_the_best() -> None:
    """The smallest that a float can hold."""
    shares = probabilities(SCORES, Sampling(temperature=5e-324))
    assert shares.tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("setting", [{"seed": 1.5}, {"top_k": 2.0}, {"seed": True}])
def test_settings_that_are_no_whole_numbers(setting: dict) -> None:
    """The message names the setting."""
    with pytest.raises(ArgumentError, match=f"{next(iter(setting))} is .*; expected a whole number"):
        Sampling(**setting)
