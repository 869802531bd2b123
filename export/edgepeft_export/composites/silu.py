"""SiLU, alone and as the gate of a gated linear unit: `silu(x) = x * sigmoid(x)`, `swiglu(x, y) = silu(x) * y`.

Elfwing et al. (2017), section 2; Shazeer, "GLU Variants Improve Transformer" (2020), equation 5. The backward
takes the sigmoid again rather than keep it: it is cheap, and the activations it reads are the widest of a model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgepeft_export.composites import _fx
from edgepeft_export.composites._fx import aten, is_call
from edgepeft_export.onnx_ops import op


def _slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its derivative at `x`."""
    sigmoid = torch.sigmoid(x)
    silu = x * sigmoid
    return silu, sigmoid + silu * (1 - sigmoid)


@torch.library.custom_op("edgepeft::silu", mutates_args=())
def silu(x: Tensor) -> Tensor:
    """`x` of any shape, float32 -> the same shape."""
    return x * torch.sigmoid(x)


@torch.library.custom_op("edgepeft::silu_backward", mutates_args=())
def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of `silu`; all shapes equal."""
    return gradient * _slope(x)[1]


@torch.library.custom_op("edgepeft::swiglu", mutates_args=())
def swiglu(x: Tensor, y: Tensor) -> Tensor:
    """`x` and `y` of one shape, float32 -> the same shape."""
    return x * torch.sigmoid(x) * y


@torch.library.custom_op("edgepeft::swiglu_backward", mutates_args=())
def swiglu_backward(gradient: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `swiglu` for `x` and `y`; all shapes equal."""
    value, slope = _slope(x)
    return gradient * y * slope, gradient * value


@silu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@silu_backward.register_fake
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


@swiglu.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


@swiglu_backward.register_fake
def _(gradient: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


silu.register_autograd(
    lambda ctx, gradient: torch.ops.edgepeft.silu_backward(gradient, *ctx.saved_tensors), setup_context=_save
)
swiglu.register_autograd(
    lambda ctx, gradient: torch.ops.edgepeft.swiglu_backward(gradient, *ctx.saved_tensors),
    setup_context=_save,
)


def fuse(module: GraphModule) -> None:
    """Replaces `silu(x) * y` of equal shapes by `edgepeft::swiglu`, any other `silu` by `edgepeft::silu`."""
    for node in _fx.calls(module, aten.silu.default):
        (x,), users = node.args, list(node.users)
        gate = _gate(node, users)
        with module.graph.inserting_before(users[0] if gate else node):
            if gate:
                fused = _fx.insert(module, torch.ops.edgepeft.swiglu.default, x, gate)
            else:
                fused = _fx.insert(module, torch.ops.edgepeft.silu.default, x)
        _fx.replace(module, users[0] if gate else node, fused)


def _gate(node: Node, users: list[Node]) -> Node | None:
    """What the lone user of `node` multiplies it with, if the shapes are equal."""
    if len(users) != 1 or not is_call(users[0], aten.mul.Tensor):
        return None
    others = [argument for argument in users[0].args if argument is not node]
    if len(others) == 1 and isinstance(others[0], Node) and _fx.shape(others[0]) == _fx.shape(node):
        return others[0]
    return None


def _slope_onnx(x: Any) -> tuple[Any, Any]:
    sigmoid = op.Sigmoid(x)
    silu = op.Mul(x, sigmoid)
    return silu, op.Add(sigmoid, op.Sub(silu, op.Mul(silu, sigmoid)))


def _silu_onnx(x: Any) -> Any:
    return op.Mul(x, op.Sigmoid(x))


def _silu_backward_onnx(gradient: Any, x: Any) -> Any:
    return op.Mul(gradient, _slope_onnx(x)[1])


def _swiglu_onnx(x: Any, y: Any) -> Any:
    return op.Mul(_silu_onnx(x), y)


def _swiglu_backward_onnx(gradient: Any, x: Any, y: Any) -> Any:
    value, slope = _slope_onnx(x)
    return op.Mul(op.Mul(gradient, y), slope), op.Mul(gradient, value)


ONNX = {
    torch.ops.edgepeft.silu.default: _silu_onnx,
    torch.ops.edgepeft.silu_backward.default: _silu_backward_onnx,
    torch.ops.edgepeft.swiglu.default: _swiglu_onnx,
    torch.ops.edgepeft.swiglu_backward.default: _swiglu_backward_onnx,
}
