"""Small helpers to read and edit an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Dims = tuple[int | str | None, ...]


def dims(value: ir.Value | None) -> Dims | None:
    """A value's shape, symbols as text; `None` where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def same_dims(first: Dims | None, second: Dims | None) -> bool:
    """Whether two shapes are known to be equal: two sizes that nobody knows may differ."""
    return first is not None and None not in first and first == second


def rank(value: ir.Value | None) -> int | None:
    """A value's number of axes, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes `value`, if its operator is one of `op_types`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types and node.domain == "" else None


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """A small constant's value; `None` for weights, inputs and whatever is computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size > 16 else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element."""
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def permutation(transpose: ir.Node) -> list[int] | None:
    """The order of axes that a `Transpose` makes; without the attribute, the reverse; `None` if nobody knows."""
    axes = rank(transpose.inputs[0])
    reverse = None if axes is None else list(reversed(range(axes)))
    found = attribute(transpose, "perm", reverse)
    return None if found is None else list(found)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or `default` where it is not set."""
    return node.attributes[name].value if name in node.attributes else default


def used_once(value: ir.Value) -> bool:
    """Whether one node input is all that reads `value`."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def new_node(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value,
    shape: Sequence[Any] | None = None,
    **attributes: Any,
) -> ir.Value:
    """Puts a node before another; its output has the type of `like`, and its shape unless another is given."""
    node = ir.node(op_type, inputs=list(inputs), attributes=attributes)
    (output,) = node.outputs
    output.type = like.type
    output.shape = ir.Shape(shape) if shape is not None else like.shape
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return output


def new_ints(before: ir.Node, values: Sequence[int]) -> ir.Value:
    """A constant 1-D int64 tensor, made before a node."""
    array = np.array(values, dtype=np.int64)
    node = ir.node("Constant", inputs=[], attributes={"value": ir.tensor(array)})
    (output,) = node.outputs
    output.type, output.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(values)])
    output.const_value = ir.tensor(array)
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return output


def replaceable(output: ir.Value, source: ir.Value) -> bool:
    """Whether `source` may take the place of `output`: a graph output needs a node of its own behind it."""
    return not output.is_graph_output() or (source.producer() is not None and not source.is_graph_output())


def redirect(old: ir.Value, new: ir.Value) -> None:
    """Lets everything that read `old`, graph outputs too, read `new`."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
