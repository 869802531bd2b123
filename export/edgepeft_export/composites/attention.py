"""Scaled dot-product attention with grouped key and value heads.

Vaswani et al., "Attention Is All You Need" (2017), equation 1; Ainslie et al., "GQA" (2023). The query heads
that share a key head are stacked along the length, so that keys and values are never repeated and their
gradients need no sum over the group.

Replaces `aten.scaled_dot_product_attention`, which PyTorch would differentiate into kernels that only it has.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgepeft_export.composites import _fx
from edgepeft_export.composites._fx import aten, is_call
from edgepeft_export.errors import ExportError
from edgepeft_export.onnx_ops import op


def _stack(x: Tensor, groups: int) -> Tensor:
    """[batch, heads, length, width] -> [batch, groups, heads / groups * length, width]."""
    return x.reshape(x.shape[0], groups, -1, x.shape[-1])


@torch.library.custom_op("edgepeft::attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention and its probabilities, all float32.

    `query` [batch, heads, length, width], `key` and `value` [batch, groups, keys, width], `bias` broadcast to
    [batch, heads, length, keys] and added to the scores -> [batch, heads, length, width] and
    [batch, heads, length, keys].
    """
    groups, heads, length = key.shape[1], query.shape[1], query.shape[2]
    scores = _stack(query * scale, groups) @ key.transpose(2, 3)
    scores = scores.reshape(query.shape[0], heads, length, key.shape[2])
    probabilities = torch.softmax(scores if bias is None else scores + bias, -1)
    result = _stack(probabilities, groups) @ value
    return result.reshape(query.shape[0], heads, length, value.shape[3]), probabilities


@torch.library.custom_op("edgepeft::attention_backward", mutates_args=())
def attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, probabilities: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `attention` for query, key and value; shapes as there."""
    groups = key.shape[1]
    stacked, weights = _stack(gradient, groups), _stack(probabilities, groups)
    for_weights = stacked @ value.transpose(2, 3)
    for_scores = weights * (for_weights - (weights * for_weights).sum(-1, keepdim=True))
    for_query = (for_scores @ (key * scale)).reshape(query.shape)
    for_key = for_scores.transpose(2, 3) @ _stack(query * scale, groups)
    return for_query, for_key, weights.transpose(2, 3) @ stacked


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    return (
        query.new_empty((*query.shape[:3], value.shape[3])),
        query.new_empty((*query.shape[:3], key.shape[2])),
    )


@attention_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, probabilities: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.scale = inputs[4]


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[3]:
        raise ExportError(
            "trace",
            "an attention mask or position bias depends on a trainable tensor, which has no gradient here. "
            "Freeze it, or load the model with attn_implementation='eager'.",
        )
    operands = ctx.saved_tensors
    gradients = torch.ops.edgepeft.attention_backward(gradient, *operands, ctx.scale)
    return (*gradients, None, None)


attention.register_autograd(_backward, setup_context=_save)


def _unrepeated(node: Any) -> Node:
    """The key or value before its heads were repeated, if they were: `reshape(expand(unsqueeze(x, 2)))`."""
    result: Node = node
    if not is_call(node, aten.reshape.default, aten.view.default):
        return result
    expanded = node.args[0]
    if not is_call(expanded, aten.expand.default) or len(_fx.shape(expanded)) != 5:
        return result
    unsqueezed = expanded.args[0]
    if is_call(unsqueezed, aten.unsqueeze.default) and unsqueezed.args[1] == 2:
        result = unsqueezed.args[0]
    return result


def _causal(module: GraphModule, query: Node, key: Node) -> Node:
    """A [length, keys] bool mask that lets position i see keys 0 to i."""
    rows = _fx.insert(module, aten.sym_size.int, query, 2)
    columns = _fx.insert(module, aten.sym_size.int, key, 2)
    positions = [_fx.insert(module, aten.arange.default, size) for size in (rows, columns)]
    return _fx.insert(
        module, aten.le.Tensor, positions[1], _fx.insert(module, aten.unsqueeze.default, positions[0], 1)
    )


def _additive(module: GraphModule, mask: Node) -> Node:
    """A float mask to add: 0 where the bool mask holds, else the lowest finite number.

    Lowest, not minus infinity: a row of padding that may see nothing then averages instead of giving NaN.
    """
    options = {"dtype": torch.float32}
    zero = _fx.insert(module, aten.full.default, [], 0.0, **options)
    lowest = _fx.insert(module, aten.full.default, [], torch.finfo(torch.float32).min, **options)
    return _fx.insert(module, aten.where.self, mask, zero, lowest)


def _arguments(node: Node) -> dict[str, Any]:
    """The arguments of a `scaled_dot_product_attention` by name."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def fuse(module: GraphModule) -> None:
    """Replaces each `scaled_dot_product_attention` by `edgepeft::attention`, one additive mask for all."""
    masks: dict[Node | None, Node] = {}
    for node in _fx.calls(module, aten.scaled_dot_product_attention.default):
        given = _arguments(node)
        query, key, value = given["query"], _unrepeated(given["key"]), _unrepeated(given["value"])
        mask, scale = given.get("attn_mask"), given.get("scale")
        if key is given["key"] or value is given["value"]:
            key, value = given["key"], given["value"]  # one of both repeated alone: take them as they are
        if len(_fx.shape(query)) != 4:
            continue  # unbatched attention: PyTorch's own decomposition serves
        with module.graph.inserting_before(node):
            if given.get("is_causal"):
                if None not in masks:
                    masks[None] = _additive(module, _causal(module, query, key))
                mask = masks[None]
            elif mask is not None and _fx.dtype(mask) == torch.bool:
                if mask not in masks:
                    masks[mask] = _additive(module, mask)
                mask = masks[mask]
            width = _fx.shape(query)[-1]
            scale = float(width) ** -0.5 if scale is None else scale
            call = torch.ops.edgepeft.attention.default
            fused = _fx.insert(module, call, query, key, value, mask, scale)
            result = _fx.insert(module, operator.getitem, fused, 0)
        _fx.replace(module, node, result)


def _regroup(x: Any, heads: int, groups: int) -> Any:
    """[batch, heads, length, width] -> [batch, groups, heads / groups * length, width] and, swapped, back."""
    return x if heads == groups else op.Reshape(x, op.Constant(value_ints=[0, groups, -1, 0]))


def _swapped(x: Any) -> Any:
    return op.Transpose(x, perm=[0, 1, 3, 2])


def _scaled(x: Any, scale: float) -> Any:
    """`x * scale`, placed right before a MatMul, into which ONNX Runtime folds it."""
    return op.Mul(x, op.Constant(value_float=scale))


def _forward_onnx(query: Any, key: Any, value: Any, bias: Any, scale: float) -> Any:
    heads, groups = query.shape[1], key.shape[1]
    stacked = _regroup(query, heads, groups)
    scores = _regroup(op.MatMul(_scaled(stacked, scale), _swapped(key)), groups, heads)
    probabilities = op.Softmax(scores if bias is None else op.Add(scores, bias), axis=-1)
    result = op.MatMul(_regroup(probabilities, heads, groups), value)
    return _regroup(result, groups, heads), probabilities


def _backward_onnx(gradient: Any, query: Any, key: Any, value: Any, probabilities: Any, scale: float) -> Any:
    heads, groups = query.shape[1], key.shape[1]
    stacked, weights, queries = (_regroup(x, heads, groups) for x in (gradient, probabilities, query))
    for_weights = op.MatMul(stacked, _swapped(value))
    total = op.ReduceSum(op.Mul(weights, for_weights), op.Constant(value_ints=[-1]))
    for_scores = op.Mul(weights, op.Sub(for_weights, total))
    for_query = op.MatMul(for_scores, _scaled(key, scale))
    for_key = op.MatMul(_swapped(for_scores), _scaled(queries, scale))
    for_value = op.MatMul(_swapped(weights), stacked)
    return _regroup(for_query, groups, heads), for_key, for_value


ONNX = {
    torch.ops.edgepeft.attention.default: _forward_onnx,
    torch.ops.edgepeft.attention_backward.default: _backward_onnx,
}
