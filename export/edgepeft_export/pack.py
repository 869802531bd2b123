"""Stage pack: graphs, frozen weights and adapter -> a bundle's folder."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgepeft import manifest as schema
from edgepeft import names, store, tensors
from edgepeft.adapter import Adapter
from edgepeft.errors import BundleError
from edgepeft.tensors import Array
from edgepeft_export import memory
from edgepeft_export.errors import ExportError
from edgepeft_export.optimizer import IR_VERSION, accumulate_graph, update_graph

#: Constants up to this many bytes stay in the graphs; larger ones, like weights, are stored once for all.
_MAX_INLINE_BYTES = 256

_DTYPES: dict[ir.DataType, Any] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
    ir.DataType.BOOL: "bool",
    ir.DataType.UINT8: "uint8",
}
_MADE_BY = ("edgepeft", "torch", "onnx", "onnxscript", "onnx-ir", "transformers", "peft")


@dataclass(frozen=True)
class Contents:
    """All that a bundle says about its model besides the graphs, and a batch to measure its memory with."""

    name: str
    architecture: str
    parameters: int
    task: str
    loss: str
    text: schema.TextInfo | None
    image: schema.ImageInfo | None
    labels: Sequence[str] | None
    training: Mapping[str, int | float]
    assets: Mapping[str, bytes]
    example: Mapping[str, Array] = field(default_factory=dict)


def split(joint: ir.Model, adapter: Sequence[str], *, outputs_in_evaluate: bool) -> dict[str, ir.Model]:
    """Cuts the joint graph into the three that a device runs; each computes only what it gives.

    Args:
        joint: Outputs "loss", "weight", the model's own, and "gradient.<tensor>".
        adapter: Names of the adapter's tensors, in order.
        outputs_in_evaluate: Whether evaluation gives the model's outputs too.
    """
    graph = joint.graph
    gradients = [names.gradient(name) for name in adapter]
    scores = [names.LOSS, names.WEIGHT]
    own = [str(o.name) for o in graph.outputs if o.name not in {*gradients, *scores}]
    wanted = {
        names.INFER: own,
        names.EVALUATE: scores + (own if outputs_in_evaluate else []),
        names.TRAIN: scores + gradients,
    }
    return {name: _cut(joint, name, outputs, set(adapter)) for name, outputs in wanted.items()}


def _cut(joint: ir.Model, name: str, outputs: Sequence[str], adapter: set[str]) -> ir.Model:
    by_name = {value.name: value for value in joint.graph.outputs}
    part = ir.convenience.extract(joint.graph, list(joint.graph.inputs), [by_name[o] for o in outputs])
    model = ir.Model(part, ir_version=IR_VERSION)
    part.opset_imports.update(joint.graph.opset_imports)
    common.RemoveUnusedNodesPass()(model)
    for value in list(part.inputs):
        if not value.uses() and value.name not in adapter:
            part.inputs.remove(value)
    return _finished(model, name)


def detach(model: ir.Model, name: str, weights: Collection[str]) -> bytes:
    """Serializes a graph that was lowered by itself, with the model's own tensors as inputs at the end.

    Args:
        model: The graph.
        name: Its name.
        weights: Names of the model's own tensors, which it shares with the other graphs; other constants may
            have any name there, and are called after this graph.
    """
    graph = model.graph
    for key, value in list(graph.initializers.items()):
        if key in weights:
            graph.initializers.pop(key)
            value.const_value = None
            graph.inputs.append(value)
        else:
            value.name = f"{name}.{key}"
    model.ir_version = IR_VERSION
    content: bytes = ir.serde.serialize_model(_finished(model, name)).SerializeToString()
    return content


def reattach(content: bytes, weights: Mapping[str, Array]) -> ir.Model:
    """The graph that `detach` serialized, with the model's tensors as initializers again."""
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(content))
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in weights]:
        assert value.name is not None
        graph.inputs.remove(value)
        value.const_value = ir.tensor(weights[value.name], name=value.name)
        graph.register_initializer(value)
    return _finished(model, str(graph.name))


def _finished(model: ir.Model, name: str) -> ir.Model:
    """Without what no device reads, and the same bytes for the same graph."""
    graph = model.graph
    graph.name = name
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    initializers = sorted(graph.initializers.items())  # cutting leaves them in any order
    graph.initializers.clear()
    graph.initializers.update(initializers)
    return model


def check_assets(assets: Mapping[str, bytes]) -> None:
    """Sees to it that every asset has a place of its own, before anything is written.

    Raises:
        ExportError: A path is not below assets/, or is no plain path.
    """
    for path in assets:
        if not path.startswith(f"{names.ASSETS}/") or not schema.is_path(path):
            raise ExportError(
                "pack",
                f"the asset {path!r} has no place in a bundle; expected {names.ASSETS}/ and a name of A-Z a-z 0-9 _ - "
                "and dots inside.",
            )


def write(folder: Path, graphs: Mapping[str, ir.Model], adapter: Adapter, contents: Contents) -> None:
    """Writes the bundle into an empty folder.

    Raises:
        ExportError: A graph has an input of a type that bundles do not know, or the manifest cannot be read back.
        StorageError: The disk refused.
    """
    shapes = {name: value.shape for name, value in adapter.tensors.items()}
    all_graphs = dict(graphs) | {
        names.ACCUMULATE: accumulate_graph(shapes),
        **{names.update_graph(optimizer): update_graph(optimizer, shapes) for optimizer in names.OPTIMIZERS},
    }
    _write_base(folder / names.BASE, graphs.values())
    for name, model in all_graphs.items():
        content = ir.serde.serialize_model(model).SerializeToString()
        store.write_file(folder / names.graph_file(name), content)
    for path, asset in contents.assets.items():
        store.write_file(folder / path, asset)
    files = {path: schema.file_entry(folder / path) for path in _listing(folder)}
    base_id = schema.base_id(files[names.BASE].sha256, files[names.graph_file(names.INFER)].sha256)
    bound = Adapter(adapter.tensors, adapter.config, base_id)
    bound.save(folder / names.INITIAL_ADAPTER)
    files = {path: schema.file_entry(folder / path) for path in _listing(folder)}
    peaks = {
        name: memory.polynomial(model, folder, adapter.tensors, contents.example)
        for name, model in graphs.items()
    }
    manifest = _manifest(all_graphs, bound, contents, files, peaks)
    try:
        encoded = schema.encode(manifest)
    except BundleError as error:
        raise ExportError("pack", f"a device would refuse {error}") from error
    store.write_file(folder / names.MANIFEST, encoded)


def _listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _write_base(path: Path, graphs: Any) -> None:
    """Stores each frozen tensor once, and points the graphs' initializers into that file."""
    users: dict[str, list[ir.Value]] = {}
    arrays: dict[str, Array] = {}
    for model in graphs:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes > _MAX_INLINE_BYTES:
                users.setdefault(name, []).append(value)
                arrays[name] = tensor.numpy()
    content = tensors.serialize(arrays, {})
    store.write_file(path, content)
    header = tensors.parse_header(memoryview(content), str(path), ExportError.at("pack"))
    for name, values in users.items():
        entry = header.entries[name]
        for value in values:
            old = value.const_value
            assert old is not None
            value.const_value = ir.ExternalTensor(
                names.BASE,
                entry.begin,
                entry.end - entry.begin,
                old.dtype,
                shape=ir.Shape(arrays[name].shape),
                name=name,
                base_dir=path.parent,
            )


def _manifest(
    graphs: Mapping[str, ir.Model],
    adapter: Adapter,
    contents: Contents,
    files: dict[str, schema.FileInfo],
    peaks: Mapping[str, Any],
) -> schema.Manifest:
    rows = [
        schema.AdapterTensor(name=name, dtype="float32", shape=list(value.shape))
        for name, value in adapter.tensors.items()
    ]
    assert adapter.base_id is not None
    return schema.Manifest(
        schema_version=schema.SCHEMA_VERSION,
        model=schema.ModelInfo(
            name=contents.name, architecture=contents.architecture, parameters=contents.parameters
        ),
        task=contents.task,  # type: ignore[arg-type]
        loss=contents.loss,  # type: ignore[arg-type]
        base_id=adapter.base_id,
        adapter=schema.AdapterInfo(peft_type=adapter.config.get("peft_type"), tensors=rows),
        graphs={name: _graph_info(name, model, peaks.get(name)) for name, model in graphs.items()},
        text=contents.text,
        labels=None if contents.labels is None else list(contents.labels),
        training=dict(contents.training),
        files=files,
        made_by={package: version(package) for package in _MADE_BY},
        image=contents.image,
    )


def _graph_info(name: str, model: ir.Model, peak: Any) -> schema.GraphInfo:
    return schema.GraphInfo(
        file=names.graph_file(name),
        inputs=[_port(value) for value in model.graph.inputs],
        outputs=[_port(value) for value in model.graph.outputs],
        weights=sorted(
            weight
            for weight, value in model.graph.initializers.items()
            if isinstance(value.const_value, ir.ExternalTensor)
        ),
        memory=peak,
    )


def _port(value: ir.Value) -> schema.Port:
    if value.dtype not in _DTYPES or value.shape is None or value.name is None:
        raise ExportError(
            "pack", f"input or output {value.name!r} is {value.dtype}; expected {list(_DTYPES.values())}."
        )
    shape = [d if isinstance(d, int) else str(d.value) for d in value.shape]
    return schema.Port(name=value.name, dtype=_DTYPES[value.dtype], shape=shape)


def rename(model: ir.Model, renamed: Mapping[str, str], symbols: Mapping[str, str]) -> None:
    """Gives inputs, weights and symbolic sizes the bundle's names."""
    graph = model.graph
    for value in [*graph.inputs, *graph.initializers.values()]:
        if value.name is not None:
            value.name = renamed.get(value.name, value.name)
    pattern = re.compile("|".join(rf"\b{re.escape(old)}\b" for old in symbols) or r"(?!)")
    for value in [*graph.inputs, *graph.outputs]:
        sizes = [
            d if isinstance(d, int) else pattern.sub(lambda m: symbols[m[0]], str(d.value))
            for d in value.shape or ()
        ]
        value.shape = ir.Shape(sizes)


def make_names_unique(model: ir.Model) -> None:
    """Renames weights and inner values that have the name of an input or output.

    Raises:
        ExportError: Two inputs or outputs have one name.
    """
    ports = [value.name for value in (*model.graph.inputs, *model.graph.outputs)]
    twice = next((name for name, count in Counter(ports).items() if count > 1), None)
    if twice is not None:
        raise ExportError(
            "pack", f"the model's output {twice!r} has the name of a trainable tensor. Rename one of them."
        )
    common.NameFixPass()(model)
