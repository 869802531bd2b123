"""RMSNorm: `y = x / sqrt(mean(x^2) + epsilon) * weight` over the last axis.

Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4. Models write it out as `pow`,
`mean`, `rsqrt` and two `mul`; ONNX has `RMSNormalization` (opset 23).
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgepeft_export.composites import _fx
from edgepeft_export.composites._fx import aten, is_call
from edgepeft_export.onnx_ops import op


@torch.library.custom_op("edgepeft::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`x` [..., width] float32, `weight` [width] float32 -> [..., width] float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


@torch.library.custom_op("edgepeft::rms_norm_backward", mutates_args=())
def rms_norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The gradient of `rms_norm` for `x`; shapes as there."""
    inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
    scaled = gradient * weight
    return inverse * scaled - x * inverse**3 * (scaled * x).mean(-1, keepdim=True)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(x)


@rms_norm_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.epsilon = inputs[2]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    for_x = for_weight = None
    if ctx.needs_input_grad[0]:
        for_x = torch.ops.edgepeft.rms_norm_backward(gradient, x, weight, ctx.epsilon)
    if ctx.needs_input_grad[1]:
        normal = torch.ops.edgepeft.rms_norm(x, torch.ones_like(weight), ctx.epsilon)
        for_weight = (gradient * normal).flatten(0, -2).sum(0)
    return for_x, for_weight, None


rms_norm.register_autograd(_backward, setup_context=_save)


def _match(node: Any) -> tuple[Node, Node, float] | None:
    """`(x, weight, epsilon)` if `node` is the last multiplication of a written-out RMSNorm."""
    for normal, weight in (node.args[:2], node.args[1::-1]):
        if not is_call(normal, aten.mul.Tensor) or not isinstance(weight, Node):
            continue
        x, inverse = normal.args[:2]
        if not is_call(inverse, aten.rsqrt.default) or len(_fx.shape(weight)) != 1:
            continue
        shifted = inverse.args[0]
        if not is_call(shifted, aten.add.Tensor) or not isinstance(shifted.args[1], float):
            continue
        mean = shifted.args[0]
        if not is_call(mean, aten.mean.dim) or tuple(mean.args[1:3]) != ([-1], True):
            continue
        square = mean.args[0]
        if is_call(square, aten.pow.Tensor_Scalar) and square.args == (x, 2):
            return x, weight, shifted.args[1]
    return None


def fuse(module: GraphModule) -> None:
    """Replaces each written-out RMSNorm by `edgepeft::rms_norm`."""
    for node in _fx.calls(module, aten.mul.Tensor):
        if node in module.graph.nodes and (found := _match(node)):
            with module.graph.inserting_before(node):
                fused = _fx.insert(module, torch.ops.edgepeft.rms_norm.default, *found)
            _fx.replace(module, node, fused)


def _forward_onnx(x: Any, weight: Any, epsilon: float) -> Any:
    return op.RMSNormalization(x, weight, axis=-1, epsilon=epsilon)


def _backward_onnx(gradient: Any, x: Any, weight: Any, epsilon: float) -> Any:
    last = op.Constant(value_ints=[-1])
    mean_square = op.Mul(op.ReduceSumSquare(x, last), op.Constant(value_float=1 / weight.shape[0]))
    variance = op.Add(mean_square, op.Constant(value_float=epsilon))
    scaled = op.Mul(gradient, weight)
    projection = op.Div(op.ReduceMean(op.Mul(scaled, x), last), variance)
    return op.Div(op.Sub(scaled, op.Mul(x, projection)), op.Sqrt(variance))


ONNX = {
    torch.ops.edgepeft.rms_norm.default: _forward_onnx,
    torch.ops.edgepeft.rms_norm_backward.default: _backward_onnx,
}
