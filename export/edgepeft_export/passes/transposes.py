"""Two transposes in a row are one, or none."""

import onnx_ir as ir

from edgepeft_export.passes._graph import new_node, permutation, producer, redirect, replaceable


class MergeTransposes(ir.passes.InPlacePass):
    """Merges `Transpose(Transpose(x))`, and drops what keeps the order of axes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs over the nodes in order, so that a chain of any length collapses."""
        modified = False
        for node in model.graph:
            if node.op_type != "Transpose":
                continue
            source, axes = node.inputs[0], permutation(node)
            inner = producer(source, "Transpose")
            first = None if inner is None else permutation(inner)
            if inner is not None and first is not None and axes is not None:
                source, axes = inner.inputs[0], [first[axis] for axis in axes]
            if source is None or axes is None:
                continue
            output = node.outputs[0]
            if axes == sorted(axes) and replaceable(output, source):
                redirect(output, source)
                modified = True
            elif first is not None:
                redirect(output, new_node(node, "Transpose", [source], like=output, perm=axes))
                modified = True
        return ir.passes.PassResult(model, modified)
