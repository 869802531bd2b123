"""Federated averaging of adapters: the mean, its limits, and what does not go together."""

import math

import numpy as np
import pytest
from foreign_files import CONFIG, LORA_A, LORA_B, sound_adapter, sound_tensors
from hypothesis import given
from hypothesis import strategies as st

from edgepeft.adapter import Adapter
from edgepeft.average import average
from edgepeft.errors import AdapterError, ArgumentError


def test_the_mean_is_weighted_by_what_each_device_has_seen() -> None:
    """Three rows against one; only the ratio counts."""
    one, other = sound_adapter(seed=1), sound_adapter(seed=2)
    for weights in ([3, 1], [0.75, 0.25], [3e300, 1e300], [3e-300, 1e-300]):
        merged = average([one, other], weights)
        for name, value in merged.tensors.items():
            expected = 0.75 * one.tensors[name].astype(np.float64) + 0.25 * other.tensors[name]
            np.testing.assert_array_equal(value, expected.astype(np.float32))
            assert value.dtype == np.float32
    assert merged.config == one.config


def test_weights_whose_sum_overflows() -> None:
    """The largest numbers that there are still make a mean."""
    merged = average([sound_adapter(seed=1)] * 2, [1.7e308, 1.7e308])
    np.testing.assert_array_equal(merged.tensors[LORA_A], sound_tensors(1)[LORA_A])


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_mean_of_equal_adapters_is_the_adapter(count: int, seed: int) -> None:
    """Bit for bit, for any number of them and any weights."""
    adapter = sound_adapter(seed=seed)
    weights = np.random.default_rng(seed).uniform(0.1, 10, count).tolist()
    merged = average([adapter] * count, weights)
    assert all(np.array_equal(value, adapter.tensors[name]) for name, value in merged.tensors.items())


@given(st.permutations(range(4)))
def test_the_order_of_adapters_does_not_matter(order: list[int]) -> None:
    """Up to the last bit."""
    adapters = [sound_adapter(seed=index) for index in range(4)]
    weights = [1.0, 2.0, 3.0, 4.0]
    straight = average(adapters, weights)
    mixed = average([adapters[index] for index in order], [weights[index] for index in order])
    for name, value in straight.tensors.items():
        np.testing.assert_allclose(mixed.tensors[name], value, rtol=3e-7, atol=1e-9)


def test_a_weight_of_zero_leaves_an_adapter_out() -> None:
    """Exactly."""
    one, other = sound_adapter(seed=1), sound_adapter(seed=2)
    np.testing.assert_array_equal(average([one, other], [0, 5]).tensors[LORA_B], other.tensors[LORA_B])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(["ab", "ab"], "ab"), (["ab", None], None), ([None, "ab"], None), ([None, None], None)],
)
def test_the_base_is_claimed_only_if_all_are_bound_to_it(ids: list[str | None], expected: str | None) -> None:
    """One from elsewhere may be of another base: the mean does not claim to know."""
    full = [None if base is None else base * 32 for base in ids]
    merged = average([sound_adapter(base) for base in full], [1, 1])
    assert merged.base_id == (None if expected is None else expected * 32)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1], "1 weights for 2 adapters"),
        ([1, 2, 3], "3 weights for 2 adapters"),
        ([1, -1], "a weight is -1"),
        ([1, math.nan], "a weight is nan"),
        ([math.inf, 1], "a weight is inf"),
        ([0, 0], "all weights are 0"),
    ],
)
def test_weights_that_make_no_mean(weights: list[float], words: str) -> None:
    """Wrong use, named."""
    with pytest.raises(ArgumentError, match=words):
        average([sound_adapter(), sound_adapter()], weights)


def test_no_adapters() -> None:
    """There is nothing to average."""
    with pytest.raises(ArgumentError, match="no adapter"):
        average([], [])


def other(**changes: object) -> Adapter:
    """An adapter that differs from the sound one."""
    given = {"tensors": sound_tensors(), "config": CONFIG, "base_id": "ab" * 32} | changes
    return Adapter(**given)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            other(base_id="cd" * 32),
            "adapter 2 was made for base 'cdcdcdcdcdcd', adapter 1 for 'abababababab'",
        ),
        (other(config=CONFIG | {"r": 4}), "adapter 2 has r '4', adapter 1 has '2'"),
        (other(config=CONFIG | {"peft_type": "IA3"}), "adapter 2 has peft_type 'IA3'"),
        (
            other(tensors={LORA_A: sound_tensors()[LORA_A]}),
            "adapter 1 has the tensor .*lora_B.*adapter 2 lacks",
        ),
        (
            other(tensors=sound_tensors() | {"more": np.zeros(1, np.float32)}),
            "adapter 2 has the tensor 'more'",
        ),
        (other(tensors=sound_tensors() | {LORA_A: sound_tensors()[LORA_A].T}), "shape .8, 2. in adapter 2"),
        (other(tensors=sound_tensors() | {LORA_A: np.full((2, 8), np.nan, np.float32)}), "adapter 2.*NaN"),
        (other(tensors=sound_tensors() | {LORA_A: np.zeros((2, 8), np.float16)}), "adapter 2.*float16"),
    ],
)
def test_adapters_that_do_not_go_together(second: Adapter, words: str) -> None:
    """Another base, method, setting, tensor or shape, or a value that is none: which adapter, and what."""
    with pytest.raises(AdapterError, match=words):
        average([other(), second], [1, 1])


def test_classes_must_be_the_same() -> None:
    """Two users' categories have no mean; those of one kind are kept."""
    red = sound_adapter().with_labels(["red", "green"])
    with pytest.raises(AdapterError, match="adapter 2 names other classes than adapter 1"):
        average([red, red.with_labels(["left", "right"])], [1, 1])
    with pytest.raises(AdapterError, match="adapter 2 names other classes"):
        average([red, sound_adapter()], [1, 1])
    assert average([red, red], [1, 1]).labels == ("red", "green")


def test_settings_of_a_training_that_is_over_may_differ() -> None:
    """Dropout does not change what the tensors mean."""
    average([sound_adapter(), other(config=CONFIG | {"lora_dropout": 0.5}, base_id=None)], [1, 1])
