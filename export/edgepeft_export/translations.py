"""Which operators have an ONNX translation, and so need no decomposition: one table for trace and lower."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.onnx._internal.exporter._decomp import (
    create_onnx_friendly_decomposition_table,
    get_onnx_implemented_overloads,
)
from torch.onnx._internal.exporter._registration import ONNXRegistry

from edgepeft_export.composites import COMPOSITES
from edgepeft_export.gradients import GRADIENTS
from edgepeft_export.onnx_ops import op

#: First opset with RMSNormalization and RotaryEmbedding.
OPSET = 23

#: Translated by PyTorch, but not to what the gradient needs: the total weight of a mean is given as one.
_MISTRANSLATED = {torch.ops.aten.nll_loss_forward.default}


def _to_dtype(
    x: Any,
    dtype: int,
    non_blocking: bool = False,  # noqa: FBT001, FBT002 - as PyTorch has it
    copy: bool = False,  # noqa: FBT001, FBT002
    memory_format: int | None = None,
) -> Any:
    """`aten.to.dtype`, which decompositions rewrite, in a graph that needs none."""
    del non_blocking, copy, memory_format
    return op.Cast(x, to=dtype)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """`aten.linear`, which differentiation takes apart, on a matrix of rows: `Gemm` reads the weight as it is stored.

    PyTorch's own translation transposes it, and a runtime would fold that into a second copy of the base.
    """
    width, new_width = weight.shape[1], weight.shape[0]
    rows = op.Reshape(x, op.Constant(value_ints=[-1, width]))
    product = op.Gemm(rows, weight, transB=1) if bias is None else op.Gemm(rows, weight, bias, transB=1)
    leading = op.Shape(x, start=0, end=-1)
    return op.Reshape(product, op.Concat(leading, op.Constant(value_ints=[new_width]), axis=0))


@cache
def registry() -> ONNXRegistry:
    """PyTorch's own translations, and ours for gradients and composites."""
    result = ONNXRegistry().from_torchlib(opset_version=OPSET)
    ours = dict(GRADIENTS)
    ours |= {torch.ops.aten.to.dtype: _to_dtype, torch.ops.aten.linear.default: _linear}
    for composite in COMPOSITES:
        ours |= composite.ONNX
    for target, function in ours.items():
        result.register_op(target, function, is_complex=False)
    return result


@cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions of everything that has no translation."""
    translated = set(get_onnx_implemented_overloads(registry())) - _MISTRANSLATED
    return create_onnx_friendly_decomposition_table(translated)
