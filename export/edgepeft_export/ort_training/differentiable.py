"""Which operators onnxruntime-training 1.19.2 has a gradient for."""

from collections.abc import Collection

import onnx_ir as ir

from edgepeft import names
from edgepeft_export.errors import ExportError

#: The gradient builders in the release's library, by the operators that they serve; that of BatchNormalization is left
#: out, as it changes what the operator computes.
DIFFERENTIABLE = frozenset(
    [
        "Abs",
        "Add",
        "AveragePool",
        "BiasGelu",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Cos",
        "Div",
        "Dropout",
        "Erf",
        "Exp",
        "Expand",
        "FastGelu",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "Neg",
        "Pad",
        "Pow",
        "QuickGelu",
        "Reciprocal",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Resize",
        "ScatterElements",
        "ScatterND",
        "Sigmoid",
        "SimplifiedLayerNormalization",
        "Sin",
        "Slice",
        "Softmax",
        "SoftmaxCrossEntropyLoss",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tanh",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)
#: Operators whose results do not change when their inputs change a little: no gradient goes through them.
_FLAT = frozenset(
    [
        "ArgMax",
        "ArgMin",
        "Ceil",
        "ConstantOfShape",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonZero",
        "Not",
        "OneHot",
        "Range",
        "Round",
        "Shape",
        "Sign",
        "Size",
    ]
)


def check(model: ir.Model, adapter: Collection[str]) -> None:
    """Sees to it that every operator between the adapter and the loss has a gradient there.

    Args:
        model: A model with the adapter's tensors as initializers and an output "loss".
        adapter: Names of the adapter's tensors.

    Raises:
        ExportError: One has none, or a tensor does not reach the loss; the message names it.
    """
    between = _between(model, adapter)
    unknown = sorted({node.op_type for node in between} - DIFFERENTIABLE)
    if unknown:
        raise ExportError(
            "ort-training",
            f"onnxruntime-training 1.19.2 has no gradient for {', '.join(unknown)}, which this model trains through. "
            "Use the stock engine, or replace the module.",
        )
    used = {value.name for node in between for value in node.inputs if value is not None}
    idle = next((name for name in adapter if name not in used), None)
    if idle is not None:
        raise ExportError(
            "ort-training",
            f"the adapter tensor {idle!r} does not change the loss, and onnxruntime-training 1.19.2 takes none such. "
            "Use the stock engine, or export the model without it.",
        )


def _between(model: ir.Model, adapter: Collection[str]) -> list[ir.Node]:
    """The nodes on the ways from the adapter's tensors to the loss."""
    reached = {value for value in model.graph.initializers.values() if value.name in adapter}
    after: set[ir.Node] = set()
    for node in model.graph:
        if node.op_type not in _FLAT and any(value in reached for value in node.inputs):
            after.add(node)
            reached.update(node.outputs)
    needed = {value for value in model.graph.outputs if value.name == names.LOSS}
    found = []
    for node in reversed(model.graph):
        if any(value in needed for value in node.outputs):
            needed.update(value for value in node.inputs if value is not None)
            if node in after:
                found.append(node)
    return found
