"""Keeps what linear layers give as a matrix, [rows, width], through all that acts on each row alone.

A linear layer reshapes [batch, length, width] to a matrix and back. The reshapes between two layers cancel
once the norms, activations and sums between them work on the matrix, and sums can then join a `Gemm`.
"""

import onnx_ir as ir

from edgepeft_export.passes._graph import (
    Dims,
    attribute,
    constant,
    dims,
    new_ints,
    new_node,
    producer,
    rank,
    redirect,
    same_dims,
)

#: Operators that treat each element alone, or each row along its last axis.
_ELEMENTWISE = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Exp",
        "Gelu",
        "Neg",
        "Relu",
        "Sqrt",
        "Reciprocal",
        "Cast",
        "Identity",
    }
)
_NORMS = frozenset({"RMSNormalization", "LayerNormalization", "Softmax"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare"})


class FlattenRows(ir.passes.InPlacePass):
    """Moves the reshape from a matrix to three axes below row-wise operators."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs over the nodes in order, so that a reshape sinks as far as it can."""
        modified = False
        for node in list(model.graph):
            modified |= _is_rowwise(node) and _sink(node)
        return ir.passes.PassResult(model, modified)


def _is_rowwise(node: ir.Node) -> bool:
    shapes = [dims(output) for output in node.outputs]
    if node.domain != "" or not all(s and len(s) == 3 and isinstance(s[-1], int) for s in shapes):
        return False
    if node.op_type in _ELEMENTWISE:
        return True
    if node.op_type in _NORMS:
        return attribute(node, "axis", -1) in (-1, 2)
    if node.op_type in _REDUCTIONS:
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return axes is not None and axes.tolist() in ([-1], [2]) and attribute(node, "keepdims", 1) == 1
    return False


def _matrix_behind(value: ir.Value | None, leading: Dims) -> ir.Value | None:
    """The matrix that `value`, [*leading, width], is a reshape of."""
    reshape, shape = producer(value, "Reshape"), dims(value)
    if reshape is None or shape is None or len(shape) != 3 or not same_dims(shape[:2], leading):
        return None
    matrix = dims(reshape.inputs[0])
    return reshape.inputs[0] if matrix is not None and same_dims(matrix[1:], shape[2:]) else None


def _matrix_among(node: ir.Node) -> ir.Value | None:
    """A matrix that an operand is a reshape of, or that all readers of the lone result reshape it to."""
    shape = dims(node.outputs[0])
    assert shape is not None
    for value in node.inputs:
        if (matrix := _matrix_behind(value, shape[:2])) is not None:
            return matrix
    readers = [use.node for output in node.outputs for use in output.uses()]
    results = [reader.outputs[0] for reader in readers if reader.op_type == "Reshape"]
    to_rows = all(rank(result) == 2 and dims(result)[-1] == shape[-1] for result in results)  # type: ignore[index]
    return results[0] if results and to_rows and len(results) == len(readers) else None


def _sink(node: ir.Node) -> bool:
    """Puts `node`, on matrices, in front of one reshape of each result."""
    matrix = _matrix_among(node)
    if matrix is None:
        return False
    leading, rows = dims(node.outputs[0])[:2], dims(matrix)[0]  # type: ignore[index]
    flat = [_flattened(node, value, leading, rows) for value in node.inputs]
    if any(new is None and old is not None for new, old in zip(flat, node.inputs, strict=True)):
        return False
    attributes = {name: item.value for name, item in node.attributes.items()}
    if node.op_type in _NORMS:
        attributes["axis"] = -1
    moved = ir.node(node.op_type, inputs=flat, attributes=attributes, num_outputs=len(node.outputs))
    if node.op_type in _REDUCTIONS:
        moved.replace_input_with(1, new_ints(node, [-1]))
    assert node.graph is not None
    node.graph.insert_before(node, moved)
    operands = (value for value in node.inputs if value is not None)
    example = next(value for value in operands if same_dims((dims(value) or ())[:2], leading))
    for old, new in zip(node.outputs, moved.outputs, strict=True):
        width = dims(old)[-1]  # type: ignore[index]
        assert isinstance(width, int)
        new.type, new.shape = old.type, ir.Shape([rows, width])
        restored = new_node(node, "Reshape", [new, _target(node, example, width)], like=old)
        redirect(old, restored)
    return True


def _flattened(
    node: ir.Node, value: ir.Value | None, leading: Dims, rows: int | str | None
) -> ir.Value | None:
    """The operand as a matrix: its source if it is one, a reshape of it, or itself if it only broadcasts."""
    shape = dims(value)
    if value is None or shape is None:
        return None
    if len(shape) <= 1:
        return value
    if (matrix := _matrix_behind(value, leading)) is not None:
        return matrix
    width = shape[-1]
    if len(shape) != 3 or not same_dims(shape[:2], leading) or not isinstance(width, int):
        return None
    return new_node(node, "Reshape", [value, new_ints(node, [-1, width])], like=value, shape=[rows, width])


def _target(node: ir.Node, like: ir.Value, width: int) -> ir.Value:
    """The computed shape [batch, length, width] of a result, from that of an operand."""
    target = ir.Value(type=ir.TensorType(ir.DataType.INT64))
    leading = new_node(node, "Shape", [like], like=target, shape=[2], start=0, end=2)
    return new_node(node, "Concat", [leading, new_ints(node, [width])], like=target, shape=[3], axis=0)
