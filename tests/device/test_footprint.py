"""What a device must install: the runtime and what it takes, without torch and within a bound."""

import re
from importlib import metadata, util
from pathlib import Path

import pytest

import edgepeft
from edgepeft import ort_package

#: Bytes of site-packages at most, compiled files included, by whether it is the package for training: onnxruntime itself
#: takes 80 MB, onnxruntime-training 31 MB.
MOST_BYTES = {True: 120_000_000, False: 175_000_000}


def needed() -> set[str]:
    """The distributions behind edgepeft without extras, and the ONNX Runtime with what it cannot be imported without."""
    found = {ort_package.installed().name}
    waiting = ["edgepeft"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            lines = [line for line in metadata.requires(name) or () if "extra ==" not in line]
            waiting += [re.match(r"[\w.-]+", line)[0] for line in lines]
    return found


def test_the_bytes_of_an_installation() -> None:
    """The files of every distribution that is needed."""
    sizes = {}
    for name in needed():
        files = metadata.distribution(name).files
        assert files, name
        places = [file.locate() for file in files]
        sizes[name] = sum(place.stat().st_size for place in places if place.exists())
    sources = Path(edgepeft.__file__).parent.rglob("*.py*")  # an editable installation lists none
    sizes["edgepeft"] = sum(place.stat().st_size for place in sources)
    package = ort_package.installed()
    assert sizes.keys() > {"numpy", "safetensors", package.name}
    assert sizes["edgepeft"] > 300_000
    assert sum(sizes.values()) <= MOST_BYTES[package.trains], sizes


@pytest.mark.skipif(util.find_spec("torch") is not None, reason="a workstation has it, and is no device")
def test_no_torch() -> None:
    """Nor onnx, which onnxruntime-training asks for and the runtime does not take."""
    for name in ("torch", "onnx", "transformers", "peft"):
        assert util.find_spec(name) is None, name
