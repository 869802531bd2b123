"""Rotary position embedding: `x * cos + rotate_half(x) * sin` over the last axis.

Su et al., "RoFormer" (2021), section 3.2.2, in the layout of GPT-NeoX and Llama, where the two halves of an
angle stand `width / 2` apart. A rotation's transpose is the rotation by the opposite angle, so forward and
backward are one ONNX `RotaryEmbedding` (opset 23) each.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgepeft_export.composites import _fx
from edgepeft_export.composites._fx import aten, is_call
from edgepeft_export.errors import ExportError
from edgepeft_export.onnx_ops import op

#: Element-wise operators through which two equal halves stay equal.
_ELEMENTWISE = (aten.cos.default, aten.sin.default, aten.mul.Tensor, aten.unsqueeze.default)


@torch.library.custom_op("edgepeft::rotary", mutates_args=())
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [batch, heads, length, width], `cos` and `sin` [batch, length, width / 2], all float32."""
    first, second = x.chunk(2, -1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


@rotary.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    if any(ctx.needs_input_grad[1:]):
        raise ExportError(
            "trace", "a rotary embedding's angles are trainable, which has no gradient here. Freeze them."
        )
    cos, sin = ctx.saved_tensors
    return torch.ops.edgepeft.rotary(gradient, cos, -sin), None, None


rotary.register_autograd(_backward, setup_context=_save)


def _equal_halves(node: Any) -> bool:
    """Whether the last axis holds the same values twice, as `cat([angles, angles])` makes it."""
    while is_call(node, *_ELEMENTWISE):
        if node.target is aten.mul.Tensor and isinstance(node.args[1], Node):
            return False
        if node.target is aten.unsqueeze.default and node.args[1] in (-1, len(_fx.shape(node)) - 1):
            return False
        node = node.args[0]
    parts = _joined_halves(node)
    return parts is not None and parts[0] is parts[1]


def _joined_halves(node: Any) -> tuple[Any, Any] | None:
    """The two parts of a `cat` along the last axis."""
    if not is_call(node, aten.cat.default):
        return None
    parts, *axis = node.args
    last = [*axis, 0][0] in (-1, len(_fx.shape(node)) - 1)
    return (parts[0], parts[1]) if last and isinstance(parts, list) and len(parts) == 2 else None


def _is_rotated_half(node: Any, x: Node) -> bool:
    """Whether `node` is `cat([-x[..., half:], x[..., :half]], -1)`."""
    parts, width = _joined_halves(node), _fx.shape(x)[-1]
    if parts is None or not is_call(parts[0], aten.neg.default):
        return False
    second, first = parts[0].args[0], parts[1]
    last, half = len(_fx.shape(x)) - 1, width // 2
    return (
        is_call(first, aten.slice.Tensor)
        and is_call(second, aten.slice.Tensor)
        and first.args == (x, last, 0, half)
        and second.args[:3] == (x, last, half)
        and second.args[3] >= width
    )


def _match(node: Any) -> tuple[Node, Node, Node] | None:
    """`(x, cos, sin)` if `node` adds the two products of a rotary embedding."""
    direct, crossed = node.args[:2]
    if not is_call(direct, aten.mul.Tensor) or not is_call(crossed, aten.mul.Tensor):
        return None
    (x, cos), (rotated, sin) = direct.args[:2], crossed.args[:2]
    if not isinstance(x, Node) or len(_fx.shape(x)) != 4 or not _is_rotated_half(rotated, x):
        return None
    for table in (cos, sin):
        if not is_call(table, aten.unsqueeze.default) or not _equal_halves(table):
            return None
        if table.args[1] != 1 or len(_fx.shape(table)) != 4:
            return None
    return x, cos, sin


def fuse(module: GraphModule) -> None:
    """Replaces each written-out rotary embedding by `edgepeft::rotary`; a table is halved and expanded once."""
    halves: dict[Node, Node] = {}

    def half(table: Any, x: Node) -> Node:
        source = table.args[0]
        if source not in halves:
            width = _fx.shape(source)[2] // 2
            table = _fx.insert(module, aten.slice.Tensor, source, 2, 0, width)
            batch = _fx.insert(module, aten.sym_size.int, x, 0)
            halves[source] = _fx.insert(module, aten.expand.default, table, [batch, -1, width])
        return halves[source]

    for node in _fx.calls(module, aten.add.Tensor):
        if found := _match(node):
            x, cos, sin = found
            with module.graph.inserting_before(node):
                tables = half(cos, x), half(sin, x)
                fused = _fx.insert(module, torch.ops.edgepeft.rotary.default, x, *tables)
            _fx.replace(module, node, fused)


def _onnx(x: Any, cos: Any, sin: Any) -> Any:
    return op.RotaryEmbedding(x, cos, sin)


ONNX = {torch.ops.edgepeft.rotary.default: _onnx}
