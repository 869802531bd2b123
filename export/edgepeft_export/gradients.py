"""ONNX translations of the gradient operators that AOTAutograd leaves in a joint graph: a row each.

Forward operators are PyTorch's own translations; the composites bring theirs. Signatures are ATen's.
"""

import math
from collections.abc import Sequence
from typing import Any

from edgepeft_export.composites._fx import aten
from edgepeft_export.errors import ExportError
from edgepeft_export.onnx_ops import op


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _number(value: float) -> Any:
    return op.Constant(value_float=value)


def _unused() -> Any:
    """Stands for an output that the output mask leaves out; nothing reads it, and it is dropped."""
    return _number(0.0)


def softmax_backward(gradient: Any, output: Any, dim: int, input_dtype: int) -> Any:
    """`aten._softmax_backward_data`."""
    total = op.ReduceSum(op.Mul(gradient, output), _ints(dim))
    return op.Mul(output, op.Sub(gradient, total))


def gelu_backward(gradient: Any, x: Any, approximate: str = "none") -> Any:
    """`aten.gelu_backward`; Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016)."""
    if approximate == "tanh":
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        square = op.Mul(x, x)
        inner = op.Mul(op.Mul(x, _number(scale)), op.Add(op.Mul(square, _number(cubic)), _number(1.0)))
        tanh = op.Tanh(inner)
        rise = op.Mul(op.Add(op.Mul(square, _number(3 * cubic)), _number(1.0)), _number(scale))
        bend = op.Mul(op.Mul(x, op.Sub(_number(1.0), op.Mul(tanh, tanh))), rise)
        slope = op.Mul(op.Add(op.Add(tanh, _number(1.0)), bend), _number(0.5))
    else:
        cumulative = op.Add(op.Mul(op.Erf(op.Mul(x, _number(math.sqrt(0.5)))), _number(0.5)), _number(0.5))
        density = op.Exp(op.Mul(op.Mul(x, x), _number(-0.5)))
        slope = op.Add(cumulative, op.Mul(op.Mul(x, density), _number(1 / math.sqrt(2 * math.pi))))
    return op.Mul(gradient, slope)


def layer_norm_backward(
    gradient: Any,
    x: Any,
    shape: Sequence[int],
    mean: Any,
    inverse: Any,
    weight: Any,
    bias: Any,
    output_mask: Sequence[bool],
) -> tuple[Any, Any, Any]:
    """`aten.native_layer_norm_backward`; Ba et al., "Layer Normalization" (2016)."""
    rank = len(x.shape)
    axes = _ints(*range(rank - len(shape), rank))
    outer = _ints(*range(rank - len(shape)))
    normal = op.Mul(op.Sub(x, mean), inverse)
    for_x = for_weight = for_bias = _unused()
    if output_mask[0]:
        scaled = gradient if weight is None else op.Mul(gradient, weight)
        centred = op.Sub(scaled, op.ReduceMean(scaled, axes))
        projection = op.ReduceMean(op.Mul(scaled, normal), axes)
        for_x = op.Mul(op.Sub(centred, op.Mul(normal, projection)), inverse)
    if output_mask[1]:
        for_weight = op.ReduceSum(op.Mul(gradient, normal), outer, keepdims=0)
    if output_mask[2]:
        for_bias = op.ReduceSum(gradient, outer, keepdims=0)
    return for_x, for_weight, for_bias


def embedding_backward(
    gradient: Any, indices: Any, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Any:
    """`aten.embedding_dense_backward`: rows of the gradient added up by index."""
    if scale_grad_by_freq:
        raise ExportError(
            "lower", "an embedding with scale_grad_by_freq=True cannot be trained. Turn it off."
        )
    width = gradient.shape[-1]
    rows = op.Reshape(gradient, _ints(-1, width))
    flat = op.Reshape(indices, _ints(-1, 1))
    if padding_idx >= 0:
        padding = op.Equal(flat, op.Constant(value_int=padding_idx))
        rows = op.Where(padding, _number(0.0), rows)
    return op.ScatterND(op.ConstantOfShape(_ints(num_weights, width)), flat, rows, reduction="add")


def convolution_backward(
    gradient: Any,
    x: Any,
    weight: Any,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Any, Any, Any]:
    """`aten.convolution_backward` for 1, 2 and 3 spatial axes; Dumoulin and Visin (2016), section 4."""
    if transposed:
        raise ExportError(
            "lower", "the gradient of a transposed convolution is not supported. Freeze below it."
        )
    spatial = len(stride)
    kernel = list(weight.shape)[2:]
    pads = [*padding, *padding]
    for_x = for_weight = for_bias = _unused()
    if output_mask[0]:
        full = op.ConvTranspose(
            gradient,
            weight,
            strides=list(stride),
            dilations=list(dilation),
            group=groups,
            pads=[0] * (2 * spatial),
        )
        for_x = _fit(full, x, padding)
    if output_mask[1]:
        for_weight = _kernel_gradient(gradient, x, kernel, stride, pads, dilation, groups)
    if output_mask[2]:
        for_bias = op.ReduceSum(gradient, _ints(0, *range(2, 2 + spatial)), keepdims=0)
    return for_x, for_weight, for_bias


def _fit(full: Any, x: Any, padding: Sequence[int]) -> Any:
    """Cuts the forward padding off a gradient and fills with zeros what the stride left over."""
    size = op.Shape(x, start=2)
    missing = op.Sub(op.Sub(size, op.Shape(full, start=2)), _ints(*(-p for p in padding)))
    begin = [-p for p in padding]
    pads = op.Concat(_ints(0, 0, *begin), _ints(0, 0), missing, axis=0)
    return op.Pad(full, pads)


def _kernel_gradient(
    gradient: Any,
    x: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """The kernel's gradient: a convolution of the input with the output's gradient, batch and channels swapped."""
    if groups != 1:
        raise ExportError(
            "lower", f"a convolution with groups={groups} cannot be trained. Freeze its kernel."
        )
    spatial = range(2, 2 + len(stride))
    swap = [1, 0, *spatial]
    full = op.Conv(
        op.Transpose(x, perm=swap),
        op.Transpose(gradient, perm=swap),
        strides=list(dilation),
        dilations=list(stride),
        pads=list(pads),
    )
    exact = op.Slice(full, _ints(*(0 for _ in kernel)), _ints(*kernel), _ints(*spatial))
    return op.Transpose(exact, perm=swap)


def max_pool2d_backward(
    gradient: Any,
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Any,
) -> Any:
    """`aten.max_pool2d_with_indices_backward`: each gradient goes to the place its maximum came from."""
    planes = op.Concat(op.Shape(x, start=0, end=2), _ints(-1), axis=0)
    zeros = op.Reshape(op.ConstantOfShape(op.Shape(x)), planes)
    places, values = op.Reshape(indices, planes), op.Reshape(gradient, planes)
    scattered = op.ScatterElements(zeros, places, values, axis=2, reduction="add")
    return op.Reshape(scattered, op.Shape(x))


GRADIENTS: dict[Any, Any] = {
    aten._softmax_backward_data.default: softmax_backward,
    aten.gelu_backward.default: gelu_backward,
    aten.native_layer_norm_backward.default: layer_norm_backward,
    aten.embedding_dense_backward.default: embedding_backward,
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool2d_backward,
}
