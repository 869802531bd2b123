"""Cross-entropy of class scores: the loss and its gradient from one log-softmax.

`gradient = (softmax(logits) - one_hot(labels)) / counted`, zero in rows whose label is ignored. Of no counted row the
loss is NaN, as in PyTorch, and the gradient zero, so that an empty batch adds nothing to others. Where the scores
come straight from a frozen layer, `linear_cross_entropy` does better and is tried first.
"""

import operator
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.fx import GraphModule, Node

from edgepeft_export.composites import _fx
from edgepeft_export.composites._fx import aten
from edgepeft_export.onnx_ops import op


@torch.library.custom_op("edgepeft::cross_entropy", mutates_args=())
def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Mean loss and its gradient: `logits` [rows, classes] float32, `labels` [rows] int64 -> [] and as `logits`."""
    kept = labels != ignore_index
    safe = torch.where(kept, labels, 0).unsqueeze(1)
    log_probabilities = torch.log_softmax(logits, -1)
    loss = -(log_probabilities.gather(1, safe) * kept.unsqueeze(1)).sum() / kept.sum()
    share = kept.unsqueeze(1) / kept.sum().clamp(min=1)
    return loss, log_probabilities.exp().scatter_add(1, safe, -torch.ones_like(share)) * share


@cross_entropy.register_fake
def _(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    return logits.new_empty(()), torch.empty_like(logits)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (for_logits,) = ctx.saved_tensors
    return gradient * for_logits, None, None


cross_entropy.register_autograd(_backward, setup_context=_save)


def plain_arguments(node: Any) -> tuple[Node, Node, int] | None:
    """`(logits, labels, ignore_index)` of a `cross_entropy_loss` with the mean over labels and no weights."""
    names = ("logits", "labels", "weight", "reduction", "ignore_index", "label_smoothing")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    plain = (
        given.get("weight") is None and not given.get("label_smoothing") and given.get("reduction", 1) == 1
    )
    logits, labels = given["logits"], given["labels"]
    if not plain or len(_fx.shape(labels)) != 1 or _fx.dtype(labels) != torch.int64:
        return None
    return logits, labels, given.get("ignore_index", -100)


def fuse(module: GraphModule) -> None:
    """Replaces each plain `cross_entropy_loss` of rows."""
    for node in _fx.calls(module, aten.cross_entropy_loss.default):
        if arguments := plain_arguments(node):
            with module.graph.inserting_before(node):
                fused = _fx.insert(module, torch.ops.edgepeft.cross_entropy.default, *arguments)
                loss = _fx.insert(module, operator.getitem, fused, 0)
            _fx.replace(module, node, loss)


def _onnx(logits: Any, labels: Any, ignore_index: int) -> Any:
    ignored = op.Equal(labels, op.Constant(value_int=ignore_index))
    safe = op.Unsqueeze(op.Where(ignored, op.Constant(value_int=0), labels), [1])
    kept = op.Unsqueeze(op.Cast(op.Not(ignored), to=TensorProto.FLOAT), [1])
    counted = op.ReduceSum(kept, keepdims=0)
    log_probabilities = op.LogSoftmax(logits, axis=-1)
    picked = op.Mul(op.GatherElements(log_probabilities, safe, axis=1), kept)
    loss = op.Neg(op.Div(op.ReduceSum(picked, keepdims=0), counted))
    share = op.Div(kept, op.Max(counted, op.Constant(value_float=1.0)))
    minus_one = op.Expand(op.Constant(value_float=-1.0), op.Shape(safe))
    difference = op.ScatterElements(op.Exp(log_probabilities), safe, minus_one, axis=1, reduction="add")
    return loss, op.Mul(difference, share)


ONNX = {torch.ops.edgepeft.cross_entropy.default: _onnx}
