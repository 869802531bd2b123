"""Opening a bundle: what it gives, and what that costs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign_files import base_weights, sound_tensors, write_bundle

from edgepeft import names, tensors
from edgepeft.bundle import Bundle
from edgepeft.errors import BundleError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A sound bundle, open."""
    write_bundle(tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def test_weights_are_views_of_one_buffer(bundle: Bundle) -> None:
    """No weight is copied, none can be changed, and each is aligned as kernels want it; NaN is allowed."""
    expected = base_weights()
    assert set(bundle.weights) == set(expected)
    addresses = []
    for name, value in expected.items():
        weight = bundle.weights[name]
        assert (weight.dtype, weight.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(weight, value)
        assert not weight.flags.writeable
        assert not weight.flags.owndata
        assert weight.flags.aligned
        addresses.append(weight.ctypes.data)
    assert max(addresses) - min(addresses) < sum(value.nbytes for value in expected.values())
    with pytest.raises(TypeError):
        bundle.weights["new"] = np.zeros(1)  # type: ignore[index]


def test_every_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed and what is used come from one read of each file, and from nowhere else."""
    manifest = write_bundle(tmp_path / "bundle")
    opened: list[str] = []
    original = os.open

    def recording(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        descriptor = original(path, flags, *rest, dir_fd=dir_fd)
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        if place.is_file():
            opened.append(str(place.relative_to(tmp_path / "bundle")))
        return descriptor

    monkeypatch.setattr(os, "open", recording)
    bundle = Bundle.open(tmp_path / "bundle")
    bundle.graph(names.INFER)
    bundle.asset(names.TOKENIZER)
    bundle.initial_adapter()
    assert sorted(opened) == sorted([names.MANIFEST, *manifest.files])


def test_graphs_and_assets_are_given_by_name(bundle: Bundle) -> None:
    """A name that is not there is told together with what is."""
    assert bundle.graph(names.TRAIN) == b"train graph"
    assert bundle.has_asset(names.TOKENIZER)
    assert not bundle.has_asset(names.CHAT_TEMPLATE)
    with pytest.raises(BundleError, match="no graph 'evaluate'; it has infer, train"):
        bundle.graph(names.EVALUATE)
    with pytest.raises(BundleError, match=f"has no {names.CHAT_TEMPLATE}"):
        bundle.asset(names.CHAT_TEMPLATE)


def test_the_initial_adapter_is_bound_to_the_base(bundle: Bundle) -> None:
    """It carries the bundle's base id and exactly the exported values."""
    adapter = bundle.initial_adapter()
    assert adapter.base_id == bundle.manifest.base_id
    for name, value in sound_tensors().items():
        np.testing.assert_array_equal(adapter.tensors[name], value)


PROGRAM = """
import re, sys
from pathlib import Path
from edgepeft.bundle import Bundle

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
bundle = Bundle.open(sys.argv[1])
bundle.weights["w"].sum()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    """Opening costs the size of the weights, not twice that: on a small board the second copy does not fit."""
    weights = np.ones(24 << 20, dtype=np.float32)
    write_bundle(tmp_path / "bundle", base=tensors.serialize({"w": weights}, {}))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "bundle")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert weights.nbytes * 0.9 < grown < weights.nbytes * 1.1
