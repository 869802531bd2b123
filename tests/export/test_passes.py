"""Each pass: the nodes before and after, and that the numbers stay."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes import common

from edgepeft_export import passes
from edgepeft_export.errors import ExportError
from edgepeft_export.passes.flatten_rows import FlattenRows
from edgepeft_export.passes.gemm import BuildGemms
from edgepeft_export.passes.reshapes import ConstantTargets, MergeReshapes
from edgepeft_export.passes.tidy import DropNeutral
from edgepeft_export.passes.transposes import MergeTransposes

SIZES = {"B": 2, "L": 5, "N": 10}


def parse(text: str) -> ir.Model:
    """A model from ONNX's text form, shapes inferred."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {text}')
    return ir.from_proto(
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    )


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph if node.op_type != "Constant")


def outputs(model: ir.Model) -> list[np.ndarray]:
    """The model's outputs for fixed random inputs, unoptimized."""
    generator = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else SIZES[str(d.value)] for d in value.shape]
        feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(text: str, the_passes: list[ir.passes.InPlacePass], before: dict, after: dict) -> ir.Model:
    """Runs passes over a model; compares the operators and the numbers."""
    model = parse(text)
    expected = outputs(model)
    assert operators(model) == before
    passes.run(model, [*the_passes, common.RemoveUnusedNodesPass()])
    assert operators(model) == after
    for got, want in zip(outputs(model), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return model


def test_transposes_that_undo_each_other_are_dropped() -> None:
    """Two that make the identity, and, as a graph's output, one that does nothing."""
    check(
        """g (float[3, 4] x) => (float[3, 4] y) {
            a = Transpose<perm=[1, 0]>(x)  b = Transpose<perm=[1, 0]>(a)  c = Relu(b)  y = Transpose<perm=[0, 1]>(c) }""",
        [MergeTransposes()],
        {"Transpose": 3, "Relu": 1},
        {"Relu": 1},
    )


def test_transposes_in_a_row_are_one() -> None:
    """A rotation of three axes, twice, is a rotation."""
    check(
        """g (float[2, 3, 4] x) => (float[4, 2, 3] y) {
            a = Transpose<perm=[1, 2, 0]>(x)  y = Transpose<perm=[1, 2, 0]>(a) }""",
        [MergeTransposes()],
        {"Transpose": 2},
        {"Transpose": 1},
    )


def test_products_with_one_and_casts_to_the_same_type_are_dropped() -> None:
    """A scalar one, on either side; a one that widens the shape stays."""
    check(
        """g (float[3] x) => (float[3] y, float[2, 3] z) <float one = {1}, float[2, 3] ones = {1, 1, 1, 1, 1, 1}> {
            a = Mul(x, one)  b = Mul(one, a)  c = Cast<to=1>(b)  y = Relu(c)  z = Mul(x, ones) }""",
        [DropNeutral()],
        {"Mul": 3, "Cast": 1, "Relu": 1},
        {"Relu": 1, "Mul": 1},
    )


def test_reshapes_in_a_row_are_one_or_none() -> None:
    """To another shape, and back to the first."""
    check(
        """g (float[6, 4] x) => (float[2, 12] y, float[6, 4] z)
            <int64[3] three = {2, 3, 4}, int64[2] two = {2, 12}, int64[2] back = {6, 4}> {
            a = Reshape(x, three)  y = Reshape(a, two)  b = Reshape(a, back)  z = Relu(b) }""",
        [MergeReshapes()],
        {"Reshape": 3, "Relu": 1},
        {"Reshape": 1, "Relu": 1},
    )


def test_a_target_with_one_unknown_size_is_a_constant() -> None:
    """Computed shapes need no nodes where ONNX can infer them."""
    check(
        """g (float[B, L, 6] x) => (float[B, L, 2, 3] y) <int64[2] heads = {2, 3}> {
            s = Shape<start=0, end=2>(x)  t = Concat<axis=0>(s, heads)  y = Reshape(x, t) }""",
        [ConstantTargets()],
        {"Shape": 1, "Concat": 1, "Reshape": 1},
        {"Reshape": 1},
    )


TWO_LAYERS = """g (float[B, L, 4] x, float[4, 4] w, float[4, 4] v, float[4] scale) => (float[N, 4] y)
    <int64[2] rows = {-1, 4}, int64[1] width = {4}> {
    x2 = Reshape(x, rows)  a = MatMul(x2, w)
    s = Shape<start=0, end=2>(x)  t = Concat<axis=0>(s, width)
    a3 = Reshape(a, t)  b3 = Sigmoid(a3)  c3 = RMSNormalization<axis=-1>(b3, scale)  d3 = Add(c3, x)
    d2 = Reshape(d3, rows)  y = MatMul(d2, v) }"""


def test_rows_stay_a_matrix_between_two_layers() -> None:
    """The reshapes to three axes and back are gone; what has three axes by itself becomes a matrix."""
    model = parse(TWO_LAYERS)
    name_rows(model, matrices={"x2", "a", "d2"}, stacks={"a3", "b3", "c3", "d3"})
    expected = outputs(model)
    kept = {"MatMul": 2, "Sigmoid": 1, "RMSNormalization": 1, "Add": 1}
    assert operators(model) == kept | {"Reshape": 3, "Shape": 1, "Concat": 1}
    passes.run(model, [FlattenRows(), MergeReshapes(), ConstantTargets(), common.RemoveUnusedNodesPass()])
    common.CommonSubexpressionEliminationPass()(model)
    assert operators(model) == kept | {"Reshape": 2}, "x, for the product and for the sum"
    normal = next(node for node in model.graph if node.op_type == "RMSNormalization")
    assert len(normal.inputs[0].shape) == 2
    np.testing.assert_allclose(outputs(model)[0], expected[0], rtol=1e-5)


def name_rows(model: ir.Model, *, matrices: set[str], stacks: set[str]) -> None:
    """Names sizes as torch's tracing does: a matrix has B * L rows."""
    for value in (v for node in model.graph for v in node.outputs):
        if value.name in matrices:
            value.shape = ir.Shape(["N", 4])
        if value.name in stacks:
            value.shape = ir.Shape(["B", "L", 4])


def test_rows_that_are_broadcast_keep_their_axes() -> None:
    """A matrix of L rows, added to every row of a batch, is no matrix of all its rows."""
    text = """g (float[B, L, 4] x, float[L, 4] p, float[4, 4] w) => (float[B, L, 4] y)
        <int64[3] one = {1, -1, 4}> {
        a = MatMul(p, w)  a3 = Reshape(a, one)  b3 = Add(a3, x)  y = Sigmoid(b3) }"""
    model = parse(text)
    for value in (v for node in model.graph for v in node.outputs):
        value.shape = {"a": ir.Shape(["L", 4]), "a3": ir.Shape([1, "L", 4])}.get(
            str(value.name), ir.Shape(["B", "L", 4])
        )
    expected = outputs(model)
    passes.run(model, [FlattenRows(), common.RemoveUnusedNodesPass()])
    np.testing.assert_allclose(outputs(model)[0], expected[0], rtol=1e-5)


def test_sizes_that_nobody_knows_are_not_equal() -> None:
    """Two computed reshapes, both of unknown shape, to sizes that turn out to differ."""
    text = """g (float[B, L] x, int64[2] s, int64[2] t) => (float[A, C] y) {
        a = Reshape(x, s)  b = Reshape(a, t)  y = Relu(b) }"""
    model = parse(text)
    for value in (model.graph.inputs[0], *(v for node in model.graph for v in node.outputs)):
        value.shape = ir.Shape([None, None])  # as a pass before may leave it
    passes.run(model, [MergeReshapes(), common.RemoveUnusedNodesPass()])
    assert operators(model)["Reshape"] == 1, "to another shape than the source's"


@pytest.mark.parametrize("case", ["Mul", "Gemm"])
def test_a_product_of_unknown_sizes_stays(case: str) -> None:
    """A one, or a scale, may widen what it multiplies where nobody knows the shapes."""
    texts = {
        "Mul": "g (float[3] x) => (float[A] y) <float one = {1}> { a = Relu(x)  b = Mul(a, one)  y = Relu(b) }",
        "Gemm": """g (float[5, 4] x, float[4, 3] w) => (float[A, C] y) <float two = {2}> {
            a = MatMul(x, w)  b = Mul(a, two)  y = Relu(b) }""",
    }
    model = parse(texts[case])
    for value in (v for node in model.graph for v in node.outputs):
        if value.name in ("a", "b"):
            value.shape = ir.Shape([None] * len(value.shape))
    passes.run(model, [DropNeutral(), BuildGemms(), common.RemoveUnusedNodesPass()])
    assert operators(model)["Mul"] == 1


def test_transposes_are_read_as_onnx_means_them() -> None:
    """Without `perm` all axes are reversed; one that keeps a matrix as it is, as a graph's output, is no transpose."""
    check(
        """g (float[3, 4] x) => (float[4, 3] y) { a = Transpose(x)  y = Relu(a) }""",
        [MergeTransposes()],
        {"Transpose": 1, "Relu": 1},
        {"Transpose": 1, "Relu": 1},
    )
    check(
        """g (float[3, 4] x) => (float[3, 4] y) { a = Transpose(x)  b = Transpose<perm=[1, 0]>(a)  y = Relu(b) }""",
        [MergeTransposes()],
        {"Transpose": 2, "Relu": 1},
        {"Relu": 1},
    )
    check(
        """g (float[5, 4] x, float[4, 4] w) => (float[5, 4] y, float[4, 4] z) {
            z = Transpose<perm=[0, 1]>(w)  y = MatMul(x, z) }""",
        [BuildGemms()],
        {"Transpose": 1, "MatMul": 1},
        {"Transpose": 1, "MatMul": 1},
    )
    check(
        """g (float[5, 4] x, float[3, 4] w) => (float[5, 3] y) { t = Transpose(w)  y = MatMul(x, t) }""",
        [BuildGemms()],
        {"Transpose": 1, "MatMul": 1},
        {"Gemm": 1},
    )


def test_a_linear_layer_is_one_gemm() -> None:
    """The transposed weight, LoRA's scale and the sum with the base are inside."""
    model = check(
        """g (float[5, 4] x, float[3, 4] w, float[2, 4] a, float[3, 2] b) => (float[5, 3] y) <float scale = {2}> {
            wt = Transpose<perm=[1, 0]>(w)  base = MatMul(x, wt)
            at = Transpose<perm=[1, 0]>(a)  down = MatMul(x, at)
            bt = Transpose<perm=[1, 0]>(b)  up = MatMul(down, bt)
            scaled = Mul(up, scale)  y = Add(base, scaled) }""",
        [BuildGemms()],
        {"Transpose": 3, "MatMul": 3, "Mul": 1, "Add": 1},
        {"Gemm": 3},
    )
    last = model.graph.outputs[0].producer()
    assert last.attributes["alpha"].value == 2.0
    assert len(last.inputs) == 3


def test_a_scale_that_only_products_read_joins_them() -> None:
    """As in LoRA's backward: the scaled gradient goes into two products."""
    check(
        """g (float[5, 3] d, float[3, 2] b, float[5, 2] h) => (float[5, 2] y, float[3, 2] z) <float scale = {2}> {
            s = Mul(d, scale)  y = MatMul(s, b)  st = Transpose<perm=[1, 0]>(s)  z = MatMul(st, h) }""",
        [BuildGemms()],
        {"Mul": 1, "MatMul": 2, "Transpose": 1},
        {"Gemm": 2},
    )


def test_a_product_that_others_read_keeps_its_own_node() -> None:
    """Its scaled value must not replace it."""
    check(
        """g (float[5, 4] x, float[4, 3] w) => (float[5, 3] y, float[5, 3] z) <float scale = {2}> {
            y = MatMul(x, w)  z = Mul(y, scale) }""",
        [BuildGemms()],
        {"MatMul": 1, "Mul": 1},
        {"MatMul": 1, "Mul": 1},
    )


def test_a_sum_that_broadcasts_stays() -> None:
    """Only a matrix of the same shape, or a row, can be a Gemm's C."""
    check(
        """g (float[5, 4] x, float[4, 3] w, float[5, 1] c, float[3] d) => (float[5, 3] y, float[5, 3] z) {
            a = MatMul(x, w)  y = Add(a, c)  b = MatMul(x, w)  z = Add(b, d) }""",
        [BuildGemms()],
        {"MatMul": 2, "Add": 2},
        {"MatMul": 1, "Add": 1, "Gemm": 1},
    )


def test_no_weight_is_stored_transposed() -> None:
    """Constant folding leaves a weight's transpose alone, and the Gemm reads the weight as it is."""
    text = """g (float[5, 4] x) => (float[5, 3] y)
        <float[3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
        t = Transpose<perm=[1, 0]>(w)  y = MatMul(x, t) }"""
    model = check(text, list(passes.PASSES), {"Transpose": 1, "MatMul": 1}, {"Gemm": 1})
    assert list(model.graph.initializers) == ["w"]


def test_a_pass_that_fails_is_named() -> None:
    """With what ran before it."""

    class Broken(ir.passes.InPlacePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            del model
            raise ValueError("no luck")

    with pytest.raises(ExportError, match=r"passes: Broken failed after MergeTransposes: .*") as caught:
        passes.run(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), [MergeTransposes(), Broken()])
    assert caught.value.stage == "passes"
