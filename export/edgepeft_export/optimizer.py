"""The graphs that turn gradients into a better adapter, so that no host does arithmetic.

* accumulate: a running mean of gradients, weighted by what each batch counted.
* update_adamw: clipping by global norm, then AdamW (Loshchilov and Hutter, "Decoupled Weight Decay
  Regularization", 2019, algorithm 2), as `torch.nn.utils.clip_grad_norm_` and `torch.optim.AdamW` compute them.

Rates, decays and the bias corrections are float64, as Python's numbers are in PyTorch; tensors are float32.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.passes import common

from edgepeft import names

OPSET = 18
IR_VERSION = 10

#: Keeps a zero norm from dividing by zero; the number is PyTorch's.
_NORM_EPSILON = 1e-6

Shapes = Mapping[str, Sequence[int]]


class _Builder:
    """Builds a graph call by call: `op.Add(a, b)` adds a node and gives its output."""

    def __init__(self) -> None:
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.outputs: list[ir.Value] = []

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int] = ()) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.inputs.append(value)
        return value

    def output(self, name: str, value: ir.Value, dtype: ir.DataType, shape: Sequence[int] = ()) -> None:
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.outputs.append(value)

    def number(self, value: float, dtype: ir.DataType = ir.DataType.DOUBLE) -> ir.Value:
        return self.Constant(value=ir.tensor(value, dtype=dtype))

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        def call(*inputs: ir.Value, **attributes: Any) -> ir.Value:
            node = ir.node(op_type, inputs=list(inputs), attributes=attributes)
            self.nodes.append(node)
            return node.outputs[0]

        return call

    def model(self, name: str) -> ir.Model:
        graph = ir.Graph(self.inputs, self.outputs, nodes=self.nodes, opset_imports={"": OPSET}, name=name)
        model = ir.Model(graph, ir_version=IR_VERSION)
        common.NameFixPass()(model)
        return model


def accumulate_graph(shapes: Shapes) -> ir.Model:
    """`(mean * total + gradient * weight) / (total + weight)` for each tensor of `shapes`."""
    op = _Builder()
    means = {
        name: op.input(names.accumulated(name), ir.DataType.FLOAT, shape) for name, shape in shapes.items()
    }
    total = op.input(names.ACCUMULATED_WEIGHT, ir.DataType.FLOAT)
    gradients = {
        name: op.input(names.gradient(name), ir.DataType.FLOAT, shape) for name, shape in shapes.items()
    }
    weight = op.input(names.WEIGHT, ir.DataType.FLOAT)
    both = op.Add(total, weight)
    share = op.Div(weight, both)
    for name, shape in shapes.items():
        step = op.Mul(op.Sub(gradients[name], means[name]), share)
        op.output(names.new(names.accumulated(name)), op.Add(means[name], step), ir.DataType.FLOAT, shape)
    op.output(names.new(names.ACCUMULATED_WEIGHT), both, ir.DataType.FLOAT)
    return op.model(names.ACCUMULATE)


def adamw_graph(shapes: Shapes) -> ir.Model:
    """One AdamW update of each tensor of `shapes`, all gradients clipped by their common norm."""
    op = _Builder()

    def inputs(rename: Callable[[str], str]) -> dict[str, ir.Value]:
        return {name: op.input(rename(name), ir.DataType.FLOAT, shape) for name, shape in shapes.items()}

    tensors, gradients = inputs(str), inputs(names.gradient)
    means, squares = inputs(names.first_moment), inputs(names.second_moment)
    step = op.input(names.STEP, ir.DataType.INT64)
    settings = [op.input(name, ir.DataType.DOUBLE) for name in names.ADAMW_SETTINGS]
    rate, beta1, beta2, epsilon, decay, max_norm = settings

    norm = op.Sqrt(op.Sum(*(op.ReduceSumSquare(g, keepdims=0) for g in gradients.values())))
    one, count = op.number(1.0), op.Cast(step, to=TensorProto.DOUBLE)
    wide_norm = op.Add(op.Cast(norm, to=TensorProto.DOUBLE), op.number(_NORM_EPSILON))
    correction1, correction2 = (op.Sub(one, op.Pow(beta, count)) for beta in (beta1, beta2))
    scalars = {
        "clip": op.Min(op.Div(max_norm, wide_norm), one),
        "keep": op.Sub(one, op.Mul(rate, decay)),
        "size": op.Div(rate, correction1),
        "root": op.Sqrt(correction2),
        "beta1": beta1,
        "beta2": beta2,
        "rest1": op.Sub(one, beta1),
        "rest2": op.Sub(one, beta2),
        "epsilon": epsilon,
    }
    k = {name: op.Cast(value, to=TensorProto.FLOAT) for name, value in scalars.items()}
    results: list[tuple[str, ir.Value, Sequence[int]]] = []
    for name, shape in shapes.items():
        clipped = op.Mul(gradients[name], k["clip"])
        mean = op.Add(op.Mul(means[name], k["beta1"]), op.Mul(clipped, k["rest1"]))
        square = op.Add(op.Mul(squares[name], k["beta2"]), op.Mul(op.Mul(clipped, clipped), k["rest2"]))
        scale = op.Add(op.Div(op.Sqrt(square), k["root"]), k["epsilon"])
        kept = op.Mul(tensors[name], k["keep"])
        updated = op.Sub(kept, op.Mul(op.Div(mean, scale), k["size"]))
        results += [
            (names.new(name), updated, shape),
            (names.new(names.first_moment(name)), mean, shape),
            (names.new(names.second_moment(name)), square, shape),
        ]
    for name, value, shape in sorted(results, key=lambda result: _kind(result[0])):
        op.output(name, value, ir.DataType.FLOAT, shape)
    op.output(names.GRADIENT_NORM, norm, ir.DataType.FLOAT)
    return op.model(names.UPDATE_ADAMW)


def _kind(output: str) -> int:
    """Adapter tensors first, then first moments, then second moments."""
    kinds = (names.new(names.first_moment("")), names.new(names.second_moment("")))
    return next((1 + index for index, kind in enumerate(kinds) if output.startswith(kind)), 0)
