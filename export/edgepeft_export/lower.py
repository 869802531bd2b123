"""Stage lower: the traced joint graph -> an ONNX model whose adapter tensors are inputs."""

import re
from contextlib import nullcontext

import onnx_ir as ir
import torch
from onnxscript import version_converter
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.onnx._internal.exporter import _core, _fx_passes

from edgepeft_export.errors import ExportError
from edgepeft_export.trace import Trace, first_line
from edgepeft_export.translations import OPSET, decompositions, registry


def lower(traced: Trace) -> ir.Model:
    """Translates the joint graph to ONNX.

    Returns:
        A model whose inputs are the batch's tensors, then the trainable parameters by name, and whose outputs
        are named as `Trace.outputs`.

    Raises:
        ExportError: An operator has no ONNX translation; the message names it and the module it is from.
    """
    program = traced.program
    try:
        _fx_passes.insert_type_promotion_nodes(program.graph_module)
        _fx_passes.remove_assertion_nodes(program.graph_module)
        model = _core._exported_program_to_onnx_program(program, registry=registry()).model
        version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise _explained(error, traced) from error
    graph = model.graph
    for name in traced.trainable:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    assert len(graph.outputs) == len(traced.outputs)
    return model


def _explained(error: Exception, traced: Trace) -> ExportError:
    """Names the operator that has no translation, the module it comes from, and what to do."""
    causes = [error]
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    root = causes[-1]
    node = next((n for n in _calls_in(traced.program) if f"%{n.name} :" in str(causes[0])), None)
    if node is None:
        return ExportError("lower", f"the ONNX exporter refused the graph: {first_line(root)}")
    module = _module_of(node, traced.forward)
    if isinstance(root, ExportError):
        return ExportError("lower", f"module {module}: {root.reason}" if module else root.reason)
    where = f" (module {module})" if module else ""
    if len(causes) > 1 and repr(node.target) in str(root):
        return ExportError(
            "lower",
            f"operator {node.target}{where} has no ONNX translation. Replace that module, or add a row for the "
            "operator to edgepeft_export/gradients.py.",
        )
    return ExportError("lower", f"operator {node.target}{where} cannot be translated: {first_line(root)}")


def _calls_in(program: ExportedProgram) -> list[Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _module_of(node: Node, forward: ExportedProgram) -> str | None:
    """The module that called an operator of the joint graph, or whose gradient it computes; the model by its class.

    AOTAutograd forgets the modules, so the forward graph is decomposed again, step by step with its own notes, and
    the call with the most arguments in common is taken.
    """
    example = [each.meta["val"] for each in forward.graph.nodes if each.op == "placeholder"]
    steps = make_fx(Interpreter(forward.graph_module).run, decomposition_table=dict(decompositions()))
    with detect_fake_mode(example) or nullcontext(), torch.fx.traceback.preserve_node_meta(), torch.no_grad():
        graph = steps(*example).graph
    names = dict(
        zip(
            (each for each in graph.nodes if each.op == "placeholder"),
            (each.name for each in forward.graph.nodes if each.op == "placeholder"),
            strict=True,
        )
    )

    def common(call: Node) -> int:
        given = [names.get(value, value) if isinstance(value, Node) else value for value in call.args]
        sought = [value.name if isinstance(value, Node) else value for value in node.args]
        return sum(1 for value in given if any(type(value) is type(x) and value == x for x in sought))

    calls = [each for each in graph.nodes if _operator(each) and _operator(each) == _operator(node)]
    found = max(calls, key=common, default=None)
    stack = list((found.meta.get("nn_module_stack") or {}).values()) if found is not None else []
    if not stack:
        return None
    path, kind = stack[-1]
    return str(path).removeprefix("model.") if path != "model" else str(kind).rpartition(".")[2]


def _operator(node: Node) -> str | None:
    """The name of a call's operator, or of the operator whose gradient it computes."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    name: str = node.target._schema.name.split("::")[1]
    return re.sub(r"(_dense)?_backward(_data)?$", "", name)
