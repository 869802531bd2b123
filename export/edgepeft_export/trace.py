"""Stage trace: one PyTorch module and its loss -> one graph of loss, outputs and adapter gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.experimental._config as fx_config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.exported_program import _decompose_exported_program
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from edgepeft import names
from edgepeft_export.composites import COMPOSITES
from edgepeft_export.composites._fx import drop_identities
from edgepeft_export.errors import ExportError
from edgepeft_export.losses import Loss
from edgepeft_export.translations import decompositions

#: Largest size of an axis that varies, unless the model sets a limit of its own.
MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class Trace:
    """What tracing gives.

    Attributes:
        program: Graph of inputs -> loss, weight, outputs, gradients.
        outputs: Names of the graph's outputs, in order: "loss", "weight", the model's outputs, then the
            trainable parameters' names, for their gradients.
        trainable: Names of the trainable parameters.
        forward: The graph before it was differentiated and decomposed, whose nodes know their modules.
    """

    program: ExportedProgram
    outputs: tuple[str, ...]
    trainable: tuple[str, ...]
    forward: ExportedProgram


class StepModule(nn.Module):
    """A model and its loss as one function of tensors: loss, weight and the model's outputs by name."""

    def __init__(self, model: nn.Module, loss: Loss, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss
        self._labels = labels

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Runs the model on all but the labels, and the loss on both."""
        inputs = {name: value for name, value in batch.items() if name not in self._labels}
        outputs = named_outputs(self.model(**inputs))
        for name in outputs:
            if name in batch or names.is_given(name):
                raise ExportError(
                    "trace",
                    f"the model's output {name!r} has the name of an input, or of what every bundle gives besides. "
                    "Wrap the model in a module that gives it another name.",
                )
        loss, weight = self._loss(outputs, batch)
        return {names.LOSS: loss, names.WEIGHT: weight} | {
            name: value.detach() for name, value in outputs.items()
        }


def named_outputs(result: Any) -> dict[str, Tensor]:
    """A model's floating-point outputs by name: a lone tensor is "logits", as classifiers call it."""
    if isinstance(result, Tensor):
        return {"logits": result}
    by_name = (
        result if isinstance(result, Mapping) else {f"output_{i}": value for i, value in enumerate(result)}
    )
    named = {
        str(name): value
        for name, value in by_name.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0
    }
    if not named:
        raise ExportError("trace", f"the model returns {type(result).__name__}, which holds no float tensor")
    return named


def dimensions(
    model: nn.Module, example: Mapping[str, Tensor], symbols: Mapping[str, Mapping[int, str]]
) -> dict[str, Any]:
    """`torch.export` dimensions of each input from the names given to its axes."""
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    largest = {"length": positions} if isinstance(positions, int) and positions > 0 else {}
    dims: dict[str, Any] = {}
    for axes in symbols.values():
        for name in axes.values():
            dims.setdefault(name, Dim(name, min=1, max=largest.get(name, MAX_SIZE)))
    return {name: {axis: dims[s] for axis, s in symbols.get(name, {}).items()} for name in example}


def trace(step: StepModule, example: Mapping[str, Tensor], symbols: Mapping[str, Mapping[int, str]]) -> Trace:
    """Traces `step` with symbolic dimensions, fuses composites and differentiates.

    Raises:
        ExportError: PyTorch cannot trace or differentiate the model; the message carries its reason.
    """
    trainable = [name for name, parameter in step.named_parameters() if parameter.requires_grad]
    assert trainable, "attach gives no model without a trainable parameter"
    batch = {name: value.clone() for name, value in example.items()}  # one object twice is one input
    forward = export_forward(step, batch, dimensions(step.model, example, symbols))
    try:
        joint = _differentiate(forward)
    except ExportError:
        raise
    except Exception as error:
        told = first_line(error)
        todo = " Freeze it (requires_grad=False)." if "did not receive a gradient" in told else ""
        raise ExportError("trace", f"AOTAutograd refused the graph: {told}{todo}") from error
    return Trace(joint, _expose_gradients(joint), tuple(trainable), forward)


def export_forward(
    module: nn.Module, batch: Mapping[str, Tensor], dynamic: Mapping[str, Any]
) -> ExportedProgram:
    """Traces a module of one mapping of tensors with symbolic dimensions, and fuses composites.

    Raises:
        ExportError: PyTorch cannot trace the module; the message carries its reason.
    """
    try:
        # No guard may forbid a batch or length of 1.
        with fx_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(module, (dict(batch),), dynamic_shapes=(dynamic,), strict=False)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError("trace", f"torch.export refused the model: {first_line(error)}") from error
    graph = program.graph_module
    drop_identities(graph)
    for composite in COMPOSITES:
        composite.fuse(graph)
    graph.graph.lint()
    graph.recompile()
    return program


def _differentiate(forward: ExportedProgram) -> ExportedProgram:
    """The joint graph of the program's first output and its gradients, in operators that ONNX can express."""
    joint: ExportedProgram = _decompose_exported_program(
        forward,
        cia_to_decomp={},
        python_decomp_table=decompositions(),
        joint_loss_index=0,
        decompose_custom_triton_ops=False,
    )
    return joint


def _expose_gradients(joint: ExportedProgram) -> tuple[str, ...]:
    """Turns gradients into ordinary outputs, which alone the ONNX exporter keeps; returns all names."""
    signature = joint.module_call_graph[0].signature
    assert signature is not None
    outputs: list[str] = list(signature.out_spec.context)  # the keys of the dict that StepModule returns
    for spec in joint.graph_signature.output_specs:
        if spec.kind == OutputKind.GRADIENT_TO_PARAMETER:
            assert spec.target is not None
            outputs.append(spec.target)
        spec.kind, spec.target = OutputKind.USER_OUTPUT, None
    assert len(outputs) == len(joint.graph_signature.output_specs)
    signature.out_spec = pytree.tree_structure(tuple(range(len(outputs))))
    return tuple(outputs)


def first_line(error: Exception) -> str:
    """What an error of another library says first."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
