"""Stage lower: the traced joint graph -> an ONNX model whose adapter tensors are inputs."""

import onnx_ir as ir
import torch
from onnxscript import version_converter
from torch.onnx._internal.exporter import _core, _fx_passes

from edgepeft_export.composites._fx import aten, calls
from edgepeft_export.errors import ExportError
from edgepeft_export.trace import Trace
from edgepeft_export.translations import OPSET, registry


def lower(traced: Trace) -> ir.Model:
    """Translates the joint graph to ONNX.

    Returns:
        A model whose inputs are the batch's tensors, then the trainable parameters by name, and whose outputs
        are named as `Trace.outputs`.

    Raises:
        ExportError: An operator has no ONNX translation; the message names it and the module it is from.
    """
    program = traced.program
    _drop_uninitialized(program.graph_module)
    try:
        _fx_passes.insert_type_promotion_nodes(program.graph_module)
        _fx_passes.remove_assertion_nodes(program.graph_module)
        model = _core._exported_program_to_onnx_program(program, registry=registry()).model
        version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise _explained(error, program) from error
    graph = model.graph
    for name in traced.trainable:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    assert len(graph.outputs) == len(traced.outputs)
    return model


def _drop_uninitialized(module: torch.fx.GraphModule) -> None:
    """Replaces `empty_permuted`, which only lends its shape to a `full_like`, by zeros: ONNX has no such call."""
    for node in calls(module, aten.empty_permuted.default):
        with module.graph.inserting_before(node):
            zeros = module.graph.call_function(
                aten.full.default, (node.args[0], 0.0), {"dtype": torch.float32}
            )
        zeros.meta = dict(node.meta)
        node.replace_all_uses_with(zeros)
        module.graph.erase_node(node)


def _explained(error: Exception, program: torch.export.ExportedProgram) -> ExportError:
    """Names the operator that has no translation, the module it comes from, and what to do."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = str(root)
    for node in program.graph.nodes:
        if node.op == "call_function" and repr(node.target) in text:
            stack = node.meta.get("nn_module_stack") or {}
            where = next(reversed(list(stack.values())), ("?",))[0]
            return ExportError(
                "lower",
                f"operator {node.target} (module {where}) has no ONNX translation. Replace that module, or add "
                "a row for the operator to edgepeft_export/gradients.py.",
            )
    return ExportError(
        "lower", f"the ONNX exporter refused the graph: {text.splitlines()[0] if text else root!r}"
    )
