"""Rewrites a bundle's graph into what ONNX Runtime 1.19.2 knows and can differentiate.

Operators that came after opset 18 are written out; what then is left means the same in both versions. Frozen weights
become inputs: that release would copy them, or read them from a file by a path.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgepeft import names
from edgepeft.tensors import Array
from edgepeft_export.errors import ExportError

OPSET = 18
IR_VERSION = 9
_MICROSOFT = "com.microsoft"


def infer_form(content: bytes) -> bytes:
    """A graph with its own inputs and outputs, and after the inputs the frozen weights.

    Raises:
        ExportError: An operator has no older form.
    """
    model = _read(content)
    common.RemoveUnusedNodesPass()(model)
    _lower(model)
    return serialized(model)


def training_form(content: bytes, adapter: Mapping[str, Array]) -> ir.Model:
    """The graph "evaluate" as `generate_artifacts` wants it: one loss, and the adapter's tensors as initializers.

    Args:
        content: The bundle's graph "evaluate".
        adapter: Arrays by name; only their shapes count.

    Raises:
        ExportError: An operator has no older form.
    """
    model = _read(content)
    graph = model.graph
    for value in [value for value in graph.outputs if value.name not in (names.LOSS, names.WEIGHT)]:
        graph.outputs.remove(value)
    common.RemoveUnusedNodesPass()(model)  # first: it would take the outputs that only a gradient reads
    _lower(model)
    for value in [value for value in graph.inputs if value.name in adapter]:
        assert value.name is not None
        graph.inputs.remove(value)
        value.const_value = ir.tensor(np.zeros_like(adapter[value.name]), name=value.name)
        graph.register_initializer(value)
    return model


def serialized(model: ir.Model) -> bytes:
    """A model's file.

    Raises:
        ExportError: It is no valid model of the older opset.
    """
    proto = ir.serde.serialize_model(model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            "ort-training", f"the graph has no form of opset {OPSET}: {str(error).splitlines()[0]}"
        ) from error
    content: bytes = proto.SerializeToString()
    return content


def _read(content: bytes) -> ir.Model:
    return ir.serde.deserialize_model(onnx.ModelProto.FromString(content))


def _lower(model: ir.Model) -> None:
    graph = model.graph
    for node in list(graph):
        rewrite = _REWRITES.get(node.op_type) if node.domain == "" else None
        if rewrite is not None:
            rewrite(node)
    # The release's shape inference reads constants in this form only.
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for value in list(graph.initializers.values()):
        if isinstance(value.const_value, ir.ExternalTensor):
            assert value.name is not None
            graph.initializers.pop(value.name)
            value.const_value = None
            graph.inputs.append(value)
    for node in graph:  # shapes and types of inner values are inferred anew, by who reads the graph
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    graph.opset_imports[""] = OPSET
    if any(node.domain == _MICROSOFT for node in graph):
        graph.opset_imports[_MICROSOFT] = 1
    model.ir_version = IR_VERSION


class _Before:
    """Puts nodes before another one."""

    def __init__(self, node: ir.Node) -> None:
        self._node = node

    def __call__(
        self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """A node with one output."""
        return self.outputs(1, op_type, *inputs, domain=domain, **attributes)[0]

    def outputs(
        self, count: int, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """A node with several outputs."""
        node = ir.node(op_type, inputs=list(inputs), attributes=attributes, num_outputs=count, domain=domain)
        assert self._node.graph is not None
        self._node.graph.insert_before(self._node, node)
        return node.outputs

    def constant(self, array: Array) -> ir.Value:
        """A constant."""
        return self("Constant", value=ir.tensor(array))


def _replace(node: ir.Node, output: ir.Value) -> None:
    used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if len(used) != 1:
        raise _unknown(node, "with several outputs")
    (old,) = used
    output.type, output.shape = old.type, old.shape
    if old.is_graph_output():
        output.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _number(node: ir.Node, name: str, default: float) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _cast(node: ir.Node) -> None:
    """Opset 19 added an attribute that means something for 8-bit floats only."""
    node.attributes.pop("saturate", None)


def _rms_normalization(node: ir.Node) -> None:
    """X / sqrt(mean(x^2) + epsilon) * weight, over the last axis."""
    x, weight = node.inputs[:2]
    if _number(node, "axis", -1) != -1:
        raise _unknown(node, "over another axis than the last")
    put = _Before(node)
    mean = put("ReduceMean", put("Mul", x, x), put.constant(np.array([-1], np.int64)), keepdims=1)
    root = put("Sqrt", put("Add", mean, put.constant(np.array(_number(node, "epsilon", 1e-5), np.float32))))
    _replace(node, put("Mul", put("Div", x, root), weight))


def _rotary_embedding(node: ir.Node) -> None:
    """Turns the halves of x, [batch, heads, length, width], by tables [batch, length, width / 2]."""
    x, cos, sin, *positions = node.inputs
    given = [_number(node, name, 0) for name in ("interleaved", "rotary_embedding_dim", "num_heads")]
    if any(positions) or any(given):
        raise _unknown(node, "with positions, interleaved or of a part")
    put = _Before(node)
    axis = put.constant(np.array([1], np.int64))
    cos, sin = put("Unsqueeze", cos, axis), put("Unsqueeze", sin, axis)
    first, second = put.outputs(2, "Split", x, axis=-1, num_outputs=2)
    turned = (
        put("Sub", put("Mul", first, cos), put("Mul", second, sin)),
        put("Add", put("Mul", first, sin), put("Mul", second, cos)),
    )
    _replace(node, put("Concat", *turned, axis=-1))


def _gelu(node: ir.Node) -> None:
    """ONNX Runtime had the operator, in both forms, before ONNX had."""
    form = "FastGelu" if _number(node, "approximate", 0) == "tanh" else "Gelu"
    _replace(node, _Before(node)(form, node.inputs[0], domain=_MICROSOFT))


def _layer_normalization(node: ir.Node) -> None:
    """Its gradient there reads the mean and deviation, which the node must then give."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    _replace(node, _Before(node).outputs(3, node.op_type, *node.inputs, **attributes)[0])


def _batch_normalization(node: ir.Node) -> None:
    """That release differentiates it as in training, with the batch's own mean, whatever the node says."""
    x, scale, bias, mean, variance = node.inputs
    if _number(node, "training_mode", 0) or x is None or x.shape is None:
        raise _unknown(node, "in training, or of an unknown rank,")
    put = _Before(node)
    axes = put.constant(np.arange(1, len(x.shape) - 1))
    epsilon = put.constant(np.array(_number(node, "epsilon", 1e-5), np.float32))
    factor = put("Div", scale, put("Sqrt", put("Add", variance, epsilon)))
    shift = put("Sub", bias, put("Mul", mean, factor))
    scaled = put("Mul", x, put("Unsqueeze", factor, axes))
    _replace(node, put("Add", scaled, put("Unsqueeze", shift, axes)))


_REWRITES: Mapping[str, Callable[[ir.Node], None]] = {
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "RotaryEmbedding": _rotary_embedding,
}


def _unknown(node: ir.Node, what: str) -> ExportError:
    return ExportError("ort-training", f"{node.op_type} {what} has no form of opset {OPSET} here.")
