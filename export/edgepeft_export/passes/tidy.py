"""Drops what computes nothing: products with one, casts to the same type."""

import onnx_ir as ir

from edgepeft_export.passes._graph import dims, redirect, replaceable, same_dims, scalar


class DropNeutral(ir.passes.InPlacePass):
    """Two cases: `x * 1` where x has the result's shape, and a `Cast` to the type that x has."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs over the nodes in order."""
        modified = False
        for node in model.graph:
            source = _neutral(node)
            if source is not None and replaceable(node.outputs[0], source):
                redirect(node.outputs[0], source)
                modified = True
        return ir.passes.PassResult(model, modified)


def _neutral(node: ir.Node) -> ir.Value | None:
    """What the node gives back unchanged, if it does."""
    if node.op_type == "Cast":
        source = node.inputs[0]
        same = source is not None and source.dtype is not None and source.dtype == node.outputs[0].dtype
        return source if same else None
    if node.op_type == "Mul":
        for value, other in (node.inputs, tuple(reversed(node.inputs))):
            if scalar(other) == 1.0 and same_dims(dims(value), dims(node.outputs[0])):
                return value
    return None
