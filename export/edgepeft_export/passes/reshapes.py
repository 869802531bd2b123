"""Reshapes: as few as possible, with constant targets where the shapes allow it."""

import onnx_ir as ir

from edgepeft_export.passes._graph import (
    Dims,
    constant,
    dims,
    new_ints,
    new_node,
    producer,
    redirect,
    replaceable,
    same_dims,
)


class MergeReshapes(ir.passes.InPlacePass):
    """Three cases.

    1. `Reshape(Reshape(x, a), b)` is `Reshape(x, b)`, unless `b` copies a size of `a`.
    2. A reshape to the shape that its input has is dropped.
    3. So is an `Expand`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs over the nodes in order, so that a chain of any length collapses."""
        modified = False
        for node in model.graph:
            if node.op_type in ("Reshape", "Expand") and _same_shape(node):
                source = node.inputs[0]
                assert source is not None
                redirect(node.outputs[0], source)
                modified = True
            elif node.op_type == "Reshape":
                modified |= _skip_inner(node)
        return ir.passes.PassResult(model, modified)


class ConstantTargets(ir.passes.InPlacePass):
    """A reshape's computed target, if at most one size is neither static nor the input's own, is a constant."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs over the nodes in order."""
        reshapes = [node for node in model.graph if node.op_type == "Reshape"]
        modified = [_constant_target(node) for node in reshapes]
        return ir.passes.PassResult(model, any(modified))


def _same_shape(node: ir.Node) -> bool:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    source = node.inputs[0]
    if source is None or not same_dims(before, after):
        return False
    return replaceable(node.outputs[0], source)


def _skip_inner(node: ir.Node) -> bool:
    inner = producer(node.inputs[0], "Reshape")
    target = constant(node.inputs[1])
    if inner is None or (target is not None and 0 in target):
        return False
    source = inner.inputs[0]
    assert source is not None
    if same_dims(dims(source), dims(node.outputs[0])) and replaceable(node.outputs[0], source):
        redirect(node.outputs[0], source)
    else:
        node.replace_input_with(0, source)
    return True


def _constant_target(node: ir.Node) -> bool:
    if constant(node.inputs[1]) is not None:
        return False
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None or (target := _target(before, after)) is None:
        return False
    output = node.outputs[0]
    redirect(output, new_node(node, "Reshape", [node.inputs[0], new_ints(node, target)], like=output))
    return True


def _target(before: Dims, after: Dims) -> list[int] | None:
    """Sizes for `Reshape`: static as they are, 0 for the input's own at that place, -1 once for another."""
    target: list[int] = []
    for axis, size in enumerate(after):
        if isinstance(size, int):
            target.append(size)
        elif size is not None and axis < len(before) and before[axis] == size:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 and 0 not in after else None
