"""Two transposes in a row are one, or none."""

import onnx_ir as ir

from edgepeft_export.passes._graph import attribute, new_node, producer, redirect, replaceable


class MergeTransposes(ir.passes.InPlacePass):
    """Merges `Transpose(Transpose(x))`, and drops what keeps the order of axes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs over the nodes in order, so that a chain of any length collapses."""
        modified = False
        for node in model.graph:
            if node.op_type != "Transpose":
                continue
            source, axes = node.inputs[0], list(attribute(node, "perm", ()))
            if (inner := producer(source, "Transpose")) is not None:
                source, axes = inner.inputs[0], [attribute(inner, "perm", ())[axis] for axis in axes]
            assert source is not None
            output = node.outputs[0]
            if axes == sorted(axes) and replaceable(output, source):
                redirect(output, source)
                modified = True
            elif inner is not None:
                redirect(output, new_node(node, "Transpose", [source], like=output, perm=axes))
                modified = True
        return ir.passes.PassResult(model, modified)
