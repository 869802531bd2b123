"""Exports a PyTorch model, its loss and its adapter to a bundle that edgepeft adapts on a device.

import edgepeft_export
edgepeft_export.export(model, batch, loss="causal_lm", adapter=LoraConfig(r=8), output="bundle/")
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from edgepeft import manifest as schema
from edgepeft import names, store
from edgepeft.adapter import Adapter
from edgepeft.bundle import Bundle
from edgepeft.engines.base import Engine
from edgepeft.tensors import Array
from edgepeft_export import passes
from edgepeft_export.attach import Attached, as_traced, attach
from edgepeft_export.background import in_background
from edgepeft_export.decode import trace_decode
from edgepeft_export.errors import ExportError
from edgepeft_export.losses import as_loss
from edgepeft_export.lower import lower
from edgepeft_export.pack import (
    Contents,
    check_assets,
    detach,
    make_names_unique,
    reattach,
    rename,
    split,
    write,
)
from edgepeft_export.trace import StepModule, Trace, trace
from edgepeft_export.verify import Report, verify

__all__ = ["ExportError", "Report", "export", "verify_model"]

#: Axes that vary unless the caller names others: of every input the first, of tokens and their masks the second.
_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids")

Progress = Callable[[str], None]


def export(
    model: nn.Module,
    example_inputs: Mapping[str, Tensor],
    *,
    loss: str | Callable[..., Tensor],
    adapter: PeftConfig | Mapping[str, Any] | None,
    output: str | os.PathLike[str],
    name: str | None = None,
    labels: Sequence[str] | None = None,
    text: schema.TextInfo | None = None,
    image: schema.ImageInfo | None = None,
    assets: Mapping[str, bytes] | None = None,
    training: Mapping[str, int | float] | None = None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    seed: int = 0,
    check: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Writes a bundle: attach, trace, lower, passes, pack, verify.

    Args:
        model: Any module, Hugging Face model, or model wrapped by PEFT.
        example_inputs: One batch by the names of the model's arguments, and "labels"; at least 2 rows.
        loss: "causal_lm", "cross_entropy", "mse", or a function of (outputs, batch), two mappings of name to
            tensor, that gives the mean loss. Labels of unequal size are padded with -100, which a function of
            one's own has to leave out.
        adapter: A PEFT configuration, or one as a mapping; `None` to train what has `requires_grad=True`.
        output: The bundle's folder; must not exist. It appears whole, and compared with PyTorch, or not at all.
        name: What the model is called; by default its class, or its folder.
        labels: Names of the classes, in order.
        text: Token ids and length that a tokenizer has to know.
        image: How a device makes an input of an image file.
        assets: Files to carry along, by path in the bundle, such as "assets/tokenizer.json".
        training: Defaults for `TrainingArguments`, such as {"learning_rate": 2e-4}.
        dynamic_axes: Names of the axes that vary, by input. By default axis 0 is "batch", and axis 1 of tokens,
            their masks and their labels is "length".
        seed: Seed of the adapter's first values.
        check: Whether to compare the bundle with PyTorch afterwards.
        progress: Called with the name of each stage before it starts.

    Returns:
        The comparison with PyTorch; without `check` it has no rows.

    Raises:
        ExportError: A stage failed; the message names the stage, the operator or module, and what to do.
        StorageError: The output exists, or the disk refused.
    """
    tell: Progress = progress or (lambda _: None)
    if Path(output).exists():
        raise ExportError("pack", f"{output} exists. Give another folder, or remove it first.")
    check_assets(assets or {})
    axes = dict(dynamic_axes) if dynamic_axes is not None else default_axes(example_inputs)
    if image is not None:
        _check_image(image, example_inputs, axes)
    tell("attach")
    attached = attach(model, adapter, seed, list(example_inputs))
    with as_traced(attached.model), in_background(lambda: _decode(attached, loss)) as decode:
        step = StepModule(attached.model, as_loss(loss, axes.get(names.LABELS, {})), (names.LABELS,))
        tell("trace")
        traced = trace(step, example_inputs, axes)
        tell("lower")
        joint = lower(traced)
        tell("passes")
        passes.run(joint)
        tensors = _name(joint, traced, attached, axes)
        task = _task(loss, joint)
        graphs = split(joint, list(tensors), outputs_in_evaluate=task != "causal_lm")
        if decoded := decode():
            graphs[names.DECODE] = reattach(decoded, _weights(attached.model))
        contents = Contents(
            name=name or _architecture(attached.model),
            architecture=_architecture(attached.model),
            parameters=sum(p.numel() for p in attached.model.parameters() if not p.requires_grad),
            task=task,
            loss=loss if isinstance(loss, str) else "custom",
            text=text,
            image=image,
            labels=labels,
            training=training or {},
            assets=assets or {},
            example={name: value.numpy() for name, value in example_inputs.items()},
        )
        tell("pack")
        # The folder takes its name only when all of it was found right.
        with store.new_folder(Path(output), replaceable=lambda _: False) as folder:
            write(folder, graphs, Adapter(tensors, attached.config), contents)
            if not check:
                return Report(())
            tell("verify")
            return verify(Bundle.open(folder), step, attached, example_inputs, axes)


def _check_image(
    image: schema.ImageInfo, example: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]
) -> None:
    """Before minutes are spent: what is prepared is what the model takes."""
    value = example.get(image.input)
    prepared = [image.channels, image.height, image.width]
    shape = None if value is None else list(value.shape[1:])
    varies = [axis + 1 in axes.get(image.input, {}) for axis in range(3)]
    pairs = zip(shape or [], prepared, varies, strict=False)
    if shape is None or len(shape) != 3 or not all(free or got == want for got, want, free in pairs):
        raise ExportError(
            "attach",
            f"image prepares {image.input!r} as {prepared} a row, the example batch has {shape}. Make them agree.",
        )
    if not len(image.mean) == len(image.std) == image.channels or min(image.std) <= 0:
        raise ExportError(
            "attach",
            f"image has mean {image.mean} and std {image.std}; expected {image.channels} numbers each, std above 0.",
        )


def verify_model(
    bundle: Bundle,
    model: nn.Module,
    example_inputs: Mapping[str, Tensor],
    *,
    loss: str | Callable[..., Tensor],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    seed: int = 0,
    engine: Engine | None = None,
) -> Report:
    """Compares a bundle with the model that it was exported from; both get the same adapter.

    Args:
        bundle: The bundle.
        model: The model, without an adapter if `export` attached it.
        example_inputs: As for `export`.
        loss: As for `export`.
        dynamic_axes: As for `export`.
        seed: As for `export`: some methods of PEFT draw tensors that stay frozen, and so are in the bundle.
        engine: What runs the bundle; by default the stock engine.

    Raises:
        ExportError: The bundle differs from PyTorch; the message holds the table.
    """
    config = bundle.initial_adapter().config
    wrapped = isinstance(model, PeftModel) or not config.get("peft_type")
    attached = attach(model, None if wrapped else config, seed, list(example_inputs))
    axes = dict(dynamic_axes) if dynamic_axes is not None else default_axes(example_inputs)
    with as_traced(attached.model):
        step = StepModule(attached.model, as_loss(loss, axes.get(names.LABELS, {})), (names.LABELS,))
        return verify(bundle, step, attached, example_inputs, axes, engine)


def default_axes(example: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    """Which axes of each input vary: the batch, and the length of tokens and what goes with them."""
    length = next((value.shape[1] for name, value in example.items() if name in _TOKENS), None)
    axes: dict[str, dict[int, str]] = {}
    for name, value in example.items():
        axes[name] = {0: "batch"} if value.dim() else {}
        along = name in _TOKENS or name == names.LABELS
        if along and value.dim() == 2 and value.shape[1] == length:
            axes[name][1] = "length"
    return axes


def _architecture(model: nn.Module) -> str:
    base = getattr(model, "get_base_model", lambda: model)()
    return type(base).__name__


def _task(loss: str | Callable[..., Tensor], joint: ir.Model) -> str:
    """What the model does, as its loss and the shape of its scores tell."""
    scores = next((value for value in joint.graph.outputs if value.name == "logits"), None)
    if loss == "causal_lm":
        return "causal_lm"
    of_rows = scores is not None and scores.shape is not None and len(scores.shape) == 2
    return "sequence_classification" if loss == "cross_entropy" and of_rows else "generic"


def _decode(attached: Attached, loss: str | Callable[..., Tensor]) -> bytes:
    """The decode graph, serialized, with the model's weights as inputs; nothing where there can be none."""
    found = trace_decode(attached) if loss == "causal_lm" else None
    if found is None:
        return b""
    traced, axes = found
    model = lower(traced)
    passes.run(model)
    _name(model, traced, attached, axes)
    return detach(model, names.DECODE, _weights(attached.model))


def _first_names(model: nn.Module) -> dict[str, str]:
    """By each name of a parameter, the first that it has: tied ones have several, and a graph picks any."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _weights(model: nn.Module) -> dict[str, Array]:
    """A model's frozen tensors by name, in place."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().numpy() for name, tensor in tensors if not tensor.requires_grad}


def _name(
    joint: ir.Model, traced: Trace, attached: Attached, axes: Mapping[str, Mapping[int, str]]
) -> dict[str, Any]:
    """Gives the joint graph the bundle's names; returns the adapter's tensors in the graph's order."""
    prefix = "model."
    tensors = attached.tensors()
    renamed = {value.name: value.name.removeprefix("batch_") for value in joint.graph.inputs if value.name}
    tied = _first_names(attached.model)
    renamed |= {
        name: tied.get(name.removeprefix(prefix), name.removeprefix(prefix))
        for name in joint.graph.initializers
    }
    renamed |= {prefix + parameter: name for parameter, name in attached.names.items()}
    symbols: dict[str, str] = {}
    for value in joint.graph.inputs:
        for axis, symbol in axes.get(renamed[value.name or ""], {}).items():
            symbols[str(value.shape[axis].value)] = symbol  # type: ignore[index, union-attr]
    rename(joint, renamed, symbols)
    for value, output in zip(joint.graph.outputs, traced.outputs, strict=True):
        trained = attached.names.get(output.removeprefix(prefix))
        value.name = names.gradient(trained) if output in traced.trainable and trained else output
    make_names_unique(joint)
    return {
        name: tensors[name] for name in (attached.names[t.removeprefix(prefix)] for t in traced.trainable)
    }
