"""The distance of two adapters, against what can be worked out by hand."""

import math

import numpy as np
import pytest

from edgepeft.adapter import Adapter
from edgepeft.compare import compare

CONFIG = {"peft_type": "LORA", "r": 2, "target_modules": ["q", "v"], "lora_dropout": 0.0}


def adapter(base_id: str | None = None, settings: dict | None = None, **tensors: list) -> Adapter:
    arrays = {name: np.array(value, dtype=np.float32) for name, value in tensors.items()}
    return Adapter(arrays, CONFIG | (settings or {}), base_id)


def test_distances_by_hand() -> None:
    """A right angle, a turned-round tensor, an equal one; the largest change comes first."""
    found = compare(
        adapter(angle=[3.0, 0.0], turned=[1.0, 2.0], equal=[5.0]),
        adapter(angle=[0.0, 4.0], turned=[-1.0, -2.0], equal=[5.0]),
    )
    assert list(found.tensors) == ["turned", "angle", "equal"]
    assert found.tensors["turned"].relative_l2 == pytest.approx(2.0)
    assert found.tensors["turned"].cosine == pytest.approx(-1.0)
    assert found.tensors["turned"].max_abs == 4.0
    assert found.tensors["angle"].relative_l2 == pytest.approx(5 / 4)
    assert found.tensors["angle"].cosine == 0.0
    assert found.tensors["equal"].relative_l2 == 0.0
    assert found.tensors["equal"].cosine == pytest.approx(1.0)
    # Together: norms 39 and 46 squared, difference 25 + 20, product 0 - 5 + 25.
    assert found.total.relative_l2 == pytest.approx(math.sqrt(45 / 46))
    assert found.total.cosine == pytest.approx(20 / math.sqrt(39 * 46))
    assert found.total.max_abs == 4.0


def test_a_tensor_of_zeros_is_at_distance_one() -> None:
    """LoRA's B starts at zero; nothing becomes infinite, and an angle with nothing is none."""
    found = compare(adapter(b=[0.0, 0.0], c=[0.0]), adapter(b=[1e-6, 0.0], c=[0.0]))
    assert found.tensors["b"].relative_l2 == 1.0
    assert math.isnan(found.tensors["b"].cosine)
    assert found.tensors["c"].relative_l2 == 0.0


def test_it_is_symmetric() -> None:
    """Which adapter comes first does not matter to the distance."""
    random = np.random.default_rng(0)
    one, other = (adapter(a=random.standard_normal(20).tolist()) for _ in range(2))
    there, back = compare(one, other), compare(other, one)
    assert there.total == back.total


def test_numbers_that_float32_cannot_square() -> None:
    """Sums are float64."""
    found = compare(adapter(a=[1e30]), adapter(a=[-1e30]))
    assert found.total.relative_l2 == pytest.approx(2.0)


def test_what_cannot_be_compared_is_named() -> None:
    """Names that one of them lacks, and shapes that differ; the rest is compared."""
    found = compare(adapter(same=[1.0], a=[1.0], shape=[1.0]), adapter(same=[1.0], b=[1.0], shape=[[1.0]]))
    assert (found.only_in_first, found.only_in_second, found.other_shape) == (("a",), ("b",), ("shape",))
    assert list(found.tensors) == ["same"]


def test_adapters_of_two_models() -> None:
    """Nothing in common is no error, and no distance."""
    found = compare(adapter(a=[1.0]), adapter(b=[1.0]))
    assert found.tensors == {}
    assert found.total is None


def test_names_are_in_order() -> None:
    """Of equal distance, layer 2 before layer 10; so too those that only one has."""
    names = ("l.10.b", "l.2.b", "l.2.a")
    one, other = (
        adapter(**{f"{start}{name}": [1.0] for name in names} | {name: [start == "x"] for name in names})
        for start in "xy"
    )
    found = compare(one, other)
    assert list(found.tensors) == ["l.2.a", "l.2.b", "l.10.b"]
    assert found.only_in_first == ("xl.2.a", "xl.2.b", "xl.10.b")
    assert found.only_in_second == ("yl.2.a", "yl.2.b", "yl.10.b")


def test_settings_that_differ() -> None:
    """Those that change the meaning come first; PEFT's order of lists is no difference."""
    found = compare(adapter(), adapter(settings={"lora_dropout": 0.1, "r": 4, "target_modules": ["v", "q"]}))
    assert found.settings == {"r": (2, 4), "lora_dropout": (0.0, 0.1)}
    assert list(found.settings) == ["r", "lora_dropout"]
    assert compare(adapter("ab" * 32), adapter()).base_ids == ("ab" * 32, None)
    assert compare(adapter("ab" * 32), adapter("ab" * 32)).base_ids is None
    assert compare(adapter(), adapter(settings={"use_dora": True})).settings == {"use_dora": (None, True)}
    assert compare(adapter(), adapter(settings={"use_dora": False})).settings == {}, "the same as not said"


def test_classes_that_differ() -> None:
    """Names of an adapter's own against the bundle's, or against others."""
    mine = adapter().with_labels(["red", "green"])
    assert compare(mine, adapter()).labels == (("red", "green"), None)
    assert compare(mine, mine).labels is None
