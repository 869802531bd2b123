"""The loss of a language model's head: cross-entropy of `hidden @ weight.T`, only where a label is counted.

A vocabulary is large, so a [tokens, vocabulary] tensor is the largest of a training step. Here the rows whose
label is ignored are left out before the head, and the gradient for `hidden` is taken without a one-hot tensor:
`(softmax(logits) @ weight - weight[labels]) / counted`.
"""

import operator
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.fx import GraphModule, Node

from edgepeft_export.composites import _fx
from edgepeft_export.composites._fx import aten, is_call
from edgepeft_export.composites.cross_entropy import plain_arguments
from edgepeft_export.onnx_ops import op

#: Operators that act on each row alone, so that they may as well come before the head.
_ROWWISE = (aten.view.default, aten.reshape.default, aten.slice.Tensor, aten.flatten.using_ints)


@torch.library.custom_op("edgepeft::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Mean loss and its gradient for `hidden`.

    `hidden` [rows, width] float32, `weight` [classes, width] float32, `labels` [rows] int64
    -> [] and [rows, width] float32.
    """
    kept = (labels != ignore_index).nonzero().squeeze(1)
    logits = hidden[kept] @ weight.T
    loss = torch.nn.functional.cross_entropy(logits, labels[kept])
    rows = (torch.softmax(logits, -1) @ weight - weight[labels[kept]]) / len(kept)
    return loss, torch.zeros_like(hidden).index_copy(0, kept, rows)


@linear_cross_entropy.register_fake
def _(hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(()), torch.empty_like(hidden)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (for_hidden,) = ctx.saved_tensors
    return gradient * for_hidden, None, None, None


linear_cross_entropy.register_autograd(_backward, setup_context=_save)


def _head(logits: Any) -> tuple[Node, list[Node]] | None:
    """The `linear` without bias behind `logits`, and the row-wise calls between, last first."""
    between: list[Node] = []
    while is_call(logits, *_ROWWISE):
        width = _fx.shape(logits)[-1]
        if _fx.shape(logits.args[0])[-1] != width:
            return None
        between.append(logits)
        logits = logits.args[0]
    if not is_call(logits, aten.linear.default) or len(logits.args) != 2:
        return None
    return logits, between


def _moved(module: GraphModule, head: Node, between: list[Node]) -> Node:
    """The head's input, [rows, width], with the row-wise calls of its output applied to it."""
    hidden: Any = head.args[0]
    width = _fx.shape(hidden)[-1]
    for call in reversed(between):
        if call.target is aten.slice.Tensor:
            hidden = _fx.insert(module, call.target, hidden, *call.args[1:])
    return _fx.insert(module, aten.reshape.default, hidden, [-1, width])


def _frozen(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "placeholder" and not node.meta["val"].requires_grad


def fuse(module: GraphModule) -> None:
    """Replaces `cross_entropy_loss(linear(hidden, weight), labels)` where the head's weight is frozen."""
    for node in _fx.calls(module, aten.cross_entropy_loss.default):
        arguments = plain_arguments(node)
        found = _head(arguments[0]) if arguments else None
        if arguments is None or found is None or not _frozen(found[0].args[1]):
            continue
        head, between = found
        with module.graph.inserting_before(node):
            hidden = _moved(module, head, between)
            call = torch.ops.edgepeft.linear_cross_entropy.default
            fused = _fx.insert(module, call, hidden, head.args[1], *arguments[1:])
            loss = _fx.insert(module, operator.getitem, fused, 0)
        _fx.replace(module, node, loss)


def _onnx(hidden: Any, weight: Any, labels: Any, ignore_index: int) -> Any:
    ignored = op.Equal(labels, op.Constant(value_int=ignore_index))
    kept = op.Transpose(op.NonZero(op.Not(ignored)), perm=[1, 0])
    classes = op.GatherND(labels, kept)
    logits = op.Gemm(op.GatherND(hidden, kept), weight, transB=1)
    log_probabilities = op.LogSoftmax(logits, axis=-1)
    picked = op.GatherElements(log_probabilities, op.Unsqueeze(classes, [1]), axis=1)
    counted = op.Cast(op.Size(classes), to=TensorProto.FLOAT)
    loss = op.Neg(op.Div(op.ReduceSum(picked, keepdims=0), counted))
    expected = op.Gemm(op.Exp(log_probabilities), weight)
    rows = op.Div(op.Sub(expected, op.Gather(weight, classes, axis=0)), counted)
    nothing = op.ConstantOfShape(op.Shape(hidden))
    return loss, op.ScatterND(nothing, kept, rows)


ONNX = {torch.ops.edgepeft.linear_cross_entropy.default: _onnx}
