"""The graphs that turn gradients into a better adapter, so that no host does arithmetic.

* accumulate: a running mean of gradients, weighted by what each batch counted.
* update_adamw: clipping by global norm, then AdamW (Loshchilov and Hutter, "Decoupled Weight Decay
  Regularization", 2019, algorithm 2), as `torch.nn.utils.clip_grad_norm_` and `torch.optim.AdamW` compute them.
* update_sgd: the same clipping, then SGD with momentum and L2 decay, as `torch.optim.SGD` computes it.

Rates, decays and the bias corrections are float64, as Python's numbers are in PyTorch; tensors are float32.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.passes import common

from edgepeft import names

OPSET = 18
#: ONNX version of all of a bundle's files: what onnxruntime 1.22 and later, and its siblings for the web, read.
IR_VERSION = 10

#: Keeps a zero norm from dividing by zero; the number is PyTorch's.
_NORM_EPSILON = 1e-6

#: Keeps two batches that count nothing from dividing by zero; any other counts at least one label or row.
_SMALLEST_WEIGHT = 1.0

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
    """`(mean * total + gradient * weight) / (total + weight)` for each tensor of `shapes`; the mean where both are 0."""
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
    share = op.Div(weight, op.Max(both, op.number(_SMALLEST_WEIGHT, ir.DataType.FLOAT)))
    for name, shape in shapes.items():
        step = op.Mul(op.Sub(gradients[name], means[name]), share)
        op.output(names.new(names.accumulated(name)), op.Add(means[name], step), ir.DataType.FLOAT, shape)
    op.output(names.new(names.ACCUMULATED_WEIGHT), both, ir.DataType.FLOAT)
    return op.model(names.ACCUMULATE)


def update_graph(optimizer: str, shapes: Shapes) -> ir.Model:
    """One update of each tensor of `shapes` by an optimizer of `names.OPTIMIZERS`.

    All gradients are clipped by their common norm first. Outputs are the tensors, then each slot, then the norm.
    """
    op = _Builder()
    described = names.OPTIMIZERS[optimizer]

    def inputs(rename: Callable[[str], str]) -> dict[str, ir.Value]:
        return {name: op.input(rename(name), ir.DataType.FLOAT, shape) for name, shape in shapes.items()}

    tensors, gradients = inputs(str), inputs(names.gradient)
    slots = [inputs(functools.partial(names.slot, kind)) for kind in described.slots]
    step = op.Cast(op.input(names.STEP, ir.DataType.INT64), to=TensorProto.DOUBLE)
    settings = {name: op.input(name, ir.DataType.DOUBLE) for name in described.settings}

    norm = op.Sqrt(op.Sum(*(op.ReduceSumSquare(g, keepdims=0) for g in gradients.values())))
    wide_norm = op.Add(op.Cast(norm, to=TensorProto.DOUBLE), op.number(_NORM_EPSILON))
    clip = op.Min(op.Div(settings["max_grad_norm"], wide_norm), op.number(1.0))
    prepare, rule = _RULES[optimizer]
    scalars = {"clip": clip} | prepare(op, settings, step)
    k = {name: op.Cast(value, to=TensorProto.FLOAT) for name, value in scalars.items()}
    updates = {
        name: rule(op, k, tensors[name], op.Mul(gradients[name], k["clip"]), *(slot[name] for slot in slots))
        for name in shapes
    }
    for index, kind in enumerate(("", *described.slots)):
        for name, shape in shapes.items():
            kept = names.slot(kind, name) if kind else name
            op.output(names.new(kept), updates[name][index], ir.DataType.FLOAT, shape)
    op.output(names.GRADIENT_NORM, norm, ir.DataType.FLOAT)
    return op.model(names.update_graph(optimizer))


Values = Mapping[str, ir.Value]


def _adamw_scalars(op: _Builder, settings: Values, step: ir.Value) -> dict[str, ir.Value]:
    one, rate = op.number(1.0), settings["learning_rate"]
    beta1, beta2 = settings["beta1"], settings["beta2"]
    correction1, correction2 = (op.Sub(one, op.Pow(beta, step)) for beta in (beta1, beta2))
    return {
        "keep": op.Sub(one, op.Mul(rate, settings["weight_decay"])),
        "size": op.Div(rate, correction1),
        "root": op.Sqrt(correction2),
        "beta1": beta1,
        "beta2": beta2,
        "rest1": op.Sub(one, beta1),
        "rest2": op.Sub(one, beta2),
        "epsilon": settings["epsilon"],
    }


def _adamw_rule(
    op: _Builder, k: Values, tensor: ir.Value, gradient: ir.Value, exp_avg: ir.Value, exp_avg_sq: ir.Value
) -> tuple[ir.Value, ...]:
    mean = op.Add(op.Mul(exp_avg, k["beta1"]), op.Mul(gradient, k["rest1"]))
    square = op.Add(op.Mul(exp_avg_sq, k["beta2"]), op.Mul(op.Mul(gradient, gradient), k["rest2"]))
    scale = op.Add(op.Div(op.Sqrt(square), k["root"]), k["epsilon"])
    kept = op.Mul(tensor, k["keep"])
    return op.Sub(kept, op.Mul(op.Div(mean, scale), k["size"])), mean, square


def _sgd_scalars(op: _Builder, settings: Values, step: ir.Value) -> dict[str, ir.Value]:
    del op, step
    return {
        "rate": settings["learning_rate"],
        "momentum": settings["momentum"],
        "decay": settings["weight_decay"],
    }


def _sgd_rule(
    op: _Builder, k: Values, tensor: ir.Value, gradient: ir.Value, momentum_buffer: ir.Value
) -> tuple[ir.Value, ...]:
    decayed = op.Add(gradient, op.Mul(tensor, k["decay"]))
    buffer = op.Add(op.Mul(momentum_buffer, k["momentum"]), decayed)
    return op.Sub(tensor, op.Mul(buffer, k["rate"])), buffer


#: By optimizer: what it makes of its settings once, and how one tensor and its slots are updated.
_RULES: dict[str, tuple[Callable[..., dict[str, ir.Value]], Callable[..., tuple[ir.Value, ...]]]] = {
    "adamw": (_adamw_scalars, _adamw_rule),
    "sgd": (_sgd_scalars, _sgd_rule),
}
