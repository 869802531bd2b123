"""What the device wrote without the onnx package, read with it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgepeft
from edgepeft import names
from edgepeft.formats import ONNX_MODEL, export_adapter


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-bert", "conv-net"])
def test_the_model_that_stands_alone_is_sound_onnx(bundles: Path, tmp_path: Path, name: str) -> None:
    """The checker accepts it with its weights; it is the infer graph but for what was asked."""
    bundle = edgepeft.Bundle.open(bundles / name)
    adapter = bundle.initial_adapter()
    export_adapter(bundle, adapter, tmp_path / "made", "onnx")
    path = tmp_path / "made" / ONNX_MODEL
    onnx.checker.check_model(path, full_check=True)
    made = onnx.load(path, load_external_data=False)
    expected = onnx.load_model_from_string(bundle.graph(names.INFER))
    kept = [value for value in expected.graph.input if value.name not in adapter.tensors]
    assert len(kept) == len(expected.graph.input) - len(adapter.tensors)
    del expected.graph.input[:]
    expected.graph.input.extend(kept)
    expected.graph.initializer.extend(
        numpy_helper.from_array(adapter.tensors[tensor], tensor) for tensor in bundle.manifest.adapter_names
    )
    assert made == expected
    values = {value.name: value for value in onnx.load(path).graph.initializer}
    for tensor, array in adapter.tensors.items():
        assert np.array_equal(numpy_helper.to_array(values[tensor]), array)
