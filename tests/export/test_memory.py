"""The memory of a graph: the walk by hand, sizes against a real run, and where nothing can be told."""

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

import edgepeft
from edgepeft import names
from edgepeft.manifest import MONOMIALS
from edgepeft_export import memory

MIXED = ["tiny-llama", "tiny-bert", "conv-net"]


def graph(text: str) -> ir.Model:
    """A graph in ONNX's own short notation."""
    return ir.serde.deserialize_model(parser.parse_model('<ir_version: 10, opset_import: ["": 18]> ' + text))


def peak(text: str, **sizes: float) -> float:
    return memory.peak_bytes(graph(text).graph, sizes)


def test_a_chain_holds_two_at_a_time() -> None:
    """What is read for the last time goes once the node is done."""
    text = "g (float[n] x, float[n] w) => (float[n] d) { a = Gemm(x, w) b = Gemm(a, w) c = Gemm(b, w) d = Gemm(c, w) }"
    assert peak(text, a=10, b=20, c=30, d=5) == 50  # b and c


def test_what_is_read_later_stays() -> None:
    """The forward's activations wait for the backward."""
    text = "g (float[n] x) => (float[n] d) { a = Gemm(x, x) b = Gemm(a, x) c = Gemm(b, x) d = Gemm(c, a) }"
    assert peak(text, a=10, b=20, c=30, d=5) == 60  # a, b and c


def test_outputs_stay_to_the_end_and_inputs_do_not_count() -> None:
    """What the graph gives is held until all is done; what it was given is the caller's."""
    text = "g (float[n] x) => (float[n] a, float[n] c) { a = Gemm(x, x) b = Gemm(x, x) c = Gemm(b, x) }"
    assert peak(text, a=10, b=20, c=5) == 35


def test_what_nobody_reads_is_gone_at_once() -> None:
    """A second output without a reader counts while its node runs."""
    text = "g (float[n] x) => (float[n] c) { a, unused = TopK(x, x) c = Gemm(a, x) }"
    assert peak(text, a=1, unused=100, c=50) == 101


def test_operators_that_write_over_their_input() -> None:
    """Of the same size, and read for the last time."""
    text = "g (float[n] x) => (float[n] c) { a = Gemm(x, x) b = Exp(a) c = Gemm(b, x) }"
    assert peak(text, a=10, b=10, c=1) == 11
    assert peak(text, a=20, b=10, c=1) == 30, "another size"
    text = "g (float[n] x) => (float[n] c) { a = Gemm(x, x) b = Exp(a) c = Gemm(b, a) }"
    assert peak(text, a=10, b=10, c=1) == 21, "still to be read"


def test_a_reshape_is_the_same_memory() -> None:
    """It takes none, and keeps its input's; one of an input of the graph has none to keep."""
    text = "g (float[n] x, int64[1] s) => (float[n] d) { a = Gemm(x, x) b = Reshape(a, s) c = Gemm(x, x) d = Gemm(b, c) }"
    assert peak(text, a=10, b=10, c=5, d=1) == 16
    text = "g (float[n] x, int64[1] s) => (float[n] b) { a = Reshape(x, s) b = Gemm(a, x) }"
    assert peak(text, a=0, b=3) == 3


def opened(bundles: Path, name: str) -> tuple[edgepeft.Bundle, ir.Model, dict[str, np.ndarray]]:
    """A bundle, its train graph and a batch of its data."""
    bundle = edgepeft.Bundle.open(bundles / name)
    example = {}
    for port in bundle.manifest.data_inputs(names.TRAIN):
        shape = [{"batch": 2, "length": 4}.get(size, size) for size in port.shape]
        example[port.name] = np.ones(shape, port.dtype)
    return bundle, ir.serde.deserialize_model(_proto(bundle)), example


def _proto(bundle: edgepeft.Bundle) -> object:
    import onnx

    return onnx.load_model_from_string(bundle.graph(names.TRAIN))


@pytest.mark.parametrize("name", MIXED)
def test_sizes_go_on_to_larger_batches(bundles: Path, name: str) -> None:
    """Every tensor of a batch that is larger than those that were run has the size that was foretold."""
    bundle, model, example = opened(bundles, name)
    adapter = bundle.initial_adapter().tensors
    found = memory.coefficients(memory._run(model, bundle.path, adapter, example, memory.POINTS))
    rows, length = 5, 40
    real = memory._run(model, bundle.path, adapter, example, [(rows, length)])
    expected = memory._at(found, rows, length)
    assert {name: sizes[0] for name, sizes in real.items()} == expected


@pytest.mark.parametrize("name", MIXED)
def test_the_polynomial_is_near_the_peak(bundles: Path, name: str) -> None:
    """What the manifest says, over the whole range it was fitted to and twice beyond it."""
    bundle, model, example = opened(bundles, name)
    said = bundle.manifest.graphs[names.TRAIN].memory
    assert said is not None
    adapter = bundle.initial_adapter().tensors
    found = memory.coefficients(memory._run(model, bundle.path, adapter, example, memory.POINTS))
    for point in itertools.product((1, 3, 16, 32), (16, 100, 512, 1024)):
        walked = memory.peak_bytes(model.graph, memory._at(found, *point))
        assert sum(value * MONOMIALS[term](*point) for term, value in said.items()) == pytest.approx(
            walked, rel=0.12
        )


def test_a_model_without_length_has_no_such_terms(bundles: Path) -> None:
    """Images grow with the batch alone."""
    said = edgepeft.Bundle.open(bundles / "conv-net").manifest.graphs[names.TRAIN].memory
    assert said is not None
    assert said.keys() <= {"1", "batch"}


TEXT = "g (float[{axis}, 4] x) => (float[{axis}, 4] b) {{ a = Neg(x) b = Neg(a) }}"


def test_where_nothing_can_be_told(tmp_path: Path) -> None:
    """Without an example, with an axis of another name, or if the graph does not run on it: no estimate, no error."""
    example = {"x": np.ones((2, 4), np.float32)}
    known = graph(TEXT.format(axis="batch"))
    assert memory.polynomial(known, tmp_path, {}, example) == {"batch": 16.0}
    assert memory.polynomial(known, tmp_path, {}, {}) is None
    assert memory.polynomial(known, tmp_path, {}, {"x": np.ones((2, 5), np.float32)}) is None
    assert memory.polynomial(graph(TEXT.format(axis="frames")), tmp_path, {}, example) is None
