"""Runs the training model, and notes the size of every tensor in it; a script for the environment that can run it.

Usage: python sizes.py WEIGHTS FOLDER, with a file of the frozen weights, FOLDER/training_model.onnx,
FOLDER/adapter.safetensors and FOLDER/batch-N.safetensors. It writes FOLDER/sizes.json: the bytes in each batch, by the
tensor's name.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import load_file

#: ONNX Runtime's level of messages: none but fatal ones.
_FATAL_ONLY = 4


def main() -> None:
    """Writes the sizes."""
    weights, folder = Path(sys.argv[1]), Path(sys.argv[2])
    model = onnx.load(str(folder / "training_model.onnx"))
    made = [name for node in model.graph.node for name in node.output if name]
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = load_file(weights) | load_file(folder / "adapter.safetensors")
    batches = sorted(folder.glob("batch-*.safetensors"), key=lambda path: int(path.stem.partition("-")[2]))
    runs = [session.run(made, _feeds(model.graph.input, given | load_file(path))) for path in batches]
    sizes = {name: [np.asarray(run[index]).nbytes for run in runs] for index, name in enumerate(made)}
    (folder / "sizes.json").write_text(json.dumps(sizes))


def _feeds(inputs: Iterable[onnx.ValueInfoProto], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, and nothing in what the package adds: sums of gradients, and whether they begin anew."""
    feeds = {}
    for value in inputs:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[value.name] = given[value.name] if value.name in given else np.zeros(shape, dtype)
    return feeds


if __name__ == "__main__":
    main()
