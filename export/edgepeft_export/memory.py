"""What a graph's intermediate tensors take at the worst moment, as a polynomial that a device can evaluate.

Sizes of some tensors follow from data, such as the rows whose label counts, and no shape inference knows them. So
the graph is run on a few small batches, every tensor's size is noted, and goes on as a polynomial to larger ones.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgepeft.manifest import MONOMIALS, Monomial
from edgepeft.tensors import Array

Floats = npt.NDArray[np.floating[Any]]

#: Rows and lengths of the batches that are run. A tensor's size is a sum of c b^i l^j with i up to 1 and j up to 2,
#: which six sizes determine.
_ROWS_RUN = (1, 2)
_LENGTHS_RUN = (8, 12, 16)
_POWERS = tuple(itertools.product(range(len(_ROWS_RUN)), range(len(_LENGTHS_RUN))))
POINTS = tuple(itertools.product(_ROWS_RUN, _LENGTHS_RUN))

#: Where the peak is fitted.
_ROWS_FITTED = (1, 2, 4, 8, 16)
_LENGTHS_FITTED = (16, 32, 64, 128, 256, 512)

_SYMBOLS = {"batch", "length"}

#: Operators whose output is their first input's buffer.
_ALIASES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}

#: Operators that ONNX Runtime lets write over an input of the output's size that nobody reads afterwards.
_IN_PLACE = {
    "Add",
    "Cast",
    "Div",
    "Erf",
    "Exp",
    "Mul",
    "Neg",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Softmax",
    "Sqrt",
    "Sub",
    "Tanh",
}

#: ONNX Runtime's level of messages: none but fatal ones.
_FATAL_ONLY = 4
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


def polynomial(
    model: ir.Model, folder: Path, adapter: Mapping[str, Array], example: Mapping[str, Array]
) -> dict[Monomial, float] | None:
    """Peak of the live intermediate tensors in bytes, as coefficients of `manifest.MONOMIALS`.

    The peak is the largest of many polynomials, one for each node, and no polynomial itself: this is the one that
    comes nearest to it, in relative terms, over batches of 1 to 16 rows and lengths of 16 to 512.

    Args:
        model: The graph; the weights are in `folder`.
        folder: Where its external weights lie.
        adapter: The adapter's tensors by name.
        example: One batch by name, in which all labels count.

    Returns:
        The coefficients that are not zero; `None` without an example, or if the graph has other symbolic sizes than
        "batch" and "length", or does not run on a small batch.
    """
    dims = {d for value in model.graph.inputs for d in value.shape or () if not isinstance(d, int)}
    if not example or not {str(d) for d in dims} <= _SYMBOLS:
        return None
    try:
        sizes = _run(model, folder, adapter, example, POINTS)
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no common base, and an estimate is not worth one
        return None
    return fitted(model.graph, sizes)


def fitted(graph: ir.Graph, sizes: Mapping[str, Sequence[int]]) -> dict[Monomial, float]:
    """The polynomial of a graph that was run: see `polynomial`.

    Args:
        graph: The graph.
        sizes: Of every tensor that a node makes, its bytes at each of `POINTS`.
    """
    continued = coefficients(sizes)
    points = list(itertools.product(_ROWS_FITTED, _LENGTHS_FITTED))
    peaks = [peak_bytes(graph, _at(continued, *point)) for point in points]
    columns = [[term(*point) for point in points] for term in MONOMIALS.values()]
    found = _fit(np.array(columns, dtype=np.float64).T, np.array(peaks, dtype=np.float64))
    return {name: float(round(c)) for name, c in zip(MONOMIALS, found, strict=True) if round(c)}


def peak_bytes(graph: ir.Graph, sizes: Mapping[str, float]) -> float:
    """Bytes of the intermediate tensors that are alive at once, at most, if nodes run in the graph's order.

    Outputs of the graph stay to the end; its inputs and weights are not counted.

    Args:
        graph: The graph.
        sizes: Bytes of every tensor that a node makes, by name.
    """
    buffers: dict[ir.Value, ir.Value] = {}  # of each tensor, the one whose memory it is in
    readers: Counter[ir.Value] = Counter()  # how many are still to read a buffer
    for node in graph:
        for value in node.outputs:
            first = node.inputs[0] if node.inputs else None
            shared = buffers.get(first) if first is not None and node.op_type in _ALIASES else None
            buffers[value] = shared or value
            readers[buffers[value]] += len(value.uses()) + value.is_graph_output()
    held: dict[ir.Value, float] = {}
    live = peak = 0.0
    for node in graph:
        read = [buffers[value] for value in node.inputs if value in buffers]
        for buffer in read:
            readers[buffer] -= 1
        free = [buffer for buffer in dict.fromkeys(read) if not readers[buffer]]
        made = [value for value in node.outputs if buffers[value] is value and value.name in sizes]
        new = {value: sizes[str(value.name)] for value in made}
        written_over = node.op_type in _IN_PLACE and any(
            held.get(buffer) == size for buffer in free for size in new.values()
        )
        live += sum(new.values())
        peak = max(peak, live - (sum(new.values()) if written_over else 0))
        held |= new
        for buffer in [*free, *(value for value in made if not readers[value])]:
            live -= held.pop(buffer, 0)
    return peak


def batch_of(
    ports: Sequence[ir.Value], example: Mapping[str, Array], rows: int, length: int
) -> dict[str, Array]:
    """A batch of the given size, of the example's values over and over."""
    batch = {}
    for port in ports:
        value = example[str(port.name)]
        for axis, dim in enumerate(port.shape or ()):
            if not isinstance(dim, int):
                size = rows if str(dim) == "batch" else length
                value = np.take(value, np.arange(size) % value.shape[axis], axis)
        batch[str(port.name)] = value
    return batch


def coefficients(sizes: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
    """Of every tensor, its bytes as coefficients of `_POWERS`, by its bytes at each of `POINTS`."""
    terms = np.array([[b**i * n**j for i, j in _POWERS] for b, n in POINTS], dtype=np.float64)
    return {name: np.linalg.solve(terms, np.array(found, dtype=np.float64)) for name, found in sizes.items()}


def _run(
    model: ir.Model,
    folder: Path,
    adapter: Mapping[str, Array],
    example: Mapping[str, Array],
    points: Sequence[tuple[int, int]],
) -> dict[str, list[int]]:
    """Of every tensor that a node makes, its bytes in batches of some rows and lengths."""
    proto = ir.serde.serialize_model(model)
    given = {value.name for value in proto.graph.output}
    made = [name for node in proto.graph.node for name in node.output if name]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in given)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(folder.absolute()))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    data = [value for value in model.graph.inputs if value.name not in adapter]
    runs: list[Sequence[Any]] = [
        session.run(made, dict(adapter) | batch_of(data, example, *point)) for point in points
    ]
    return {name: [np.asarray(run[index]).nbytes for run in runs] for index, name in enumerate(made)}


def _at(continued: Mapping[str, Floats], rows: int, length: int) -> dict[str, float]:
    terms = np.array([rows**i * length**j for i, j in _POWERS], dtype=np.float64)
    return {name: float(round(float(found @ terms))) for name, found in continued.items()}


def _fit(columns: Floats, wanted: Floats) -> Floats:
    """Coefficients, none below zero, with the least sum of squared relative errors.

    There are few columns, so every choice of them that may be above zero is tried.
    """
    scaled, ones = columns / wanted[:, None], np.ones(len(wanted))
    best, least = np.zeros(columns.shape[1]), math.inf
    for count in range(1, columns.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(columns.shape[1]), count)):
            found, *_ = np.linalg.lstsq(scaled[:, chosen], ones)
            error = float(((scaled[:, chosen] @ found - ones) ** 2).sum())
            if found.min() >= 0 and error < least - 1e-12:
                best, least = np.zeros(columns.shape[1]), error
                best[chosen] = found
    return best
