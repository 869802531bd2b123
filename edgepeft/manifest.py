"""The bundle's manifest: what is in it, checked field by field (docs/bundle-format.md)."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgepeft import graphs, labels, limits, names, strict_json
from edgepeft.errors import BundleError

#: Version of the format that this runtime writes and reads.
SCHEMA_VERSION = 1

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_BUNDLE_FILE_BYTES)]
_Pixels = Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_IMAGE_SIDE)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_AXIS_LENGTH)]
_TokenId = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_TOKEN_ID)]
_WholeNumber = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_NAME_LENGTH)]
_Dtype = Literal["float32", "float64", "int64", "int32", "bool", "uint8"]

#: A term of a graph's memory polynomial.
Monomial = Literal["1", "batch", "batch*length", "batch*length*length"]

#: The terms, as functions of rows and their length.
MONOMIALS: dict[Monomial, Callable[[int, int], int]] = {
    "1": lambda _batch, _length: 1,
    "batch": lambda batch, _length: batch,
    "batch*length": lambda batch, length: batch * length,
    "batch*length*length": lambda batch, length: batch * length * length,
}
_Coefficient = Annotated[float, msgspec.Meta(ge=0, le=float(limits.MAX_BUNDLE_FILE_BYTES))]

_PATH = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*(/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)*")


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest: read-only, no field that this version does not know."""


class ModelInfo(_Part, frozen=True):
    """Which model was exported, and how many parameters its base has."""

    name: str
    architecture: str
    parameters: _Count


class AdapterTensor(_Part, frozen=True):
    """One tensor of the adapter."""

    name: _Name
    dtype: Literal["float32"]
    shape: list[_Size]


class AdapterInfo(_Part, frozen=True):
    """The adapter's tensors, and the method of HF PEFT that made them, if one did."""

    peft_type: str | None
    tensors: Annotated[list[AdapterTensor], msgspec.Meta(min_length=1)]


class Port(_Part, frozen=True):
    """An input or output of a graph; a text in the shape names a dimension that varies."""

    name: _Name
    dtype: _Dtype
    shape: list[_Size | str]


class GraphInfo(_Part, frozen=True):
    """One graph: its file, its inputs and outputs in order, the frozen weights that it reads, and its memory.

    The memory is an estimate of its intermediate tensors in bytes, as coefficients of `MONOMIALS`; `None` where the
    exporter could not tell.
    """

    file: str
    inputs: list[Port]
    outputs: list[Port]
    weights: list[_Name]
    memory: dict[Monomial, _Coefficient] | None = None


class TextInfo(_Part, frozen=True):
    """What a language model's tokenizer and positions need."""

    bos_token_id: _TokenId | None
    eos_token_ids: list[_TokenId]
    pad_token_id: _TokenId
    max_length: _Size


class ImageInfo(_Part, frozen=True):
    """How an image becomes an input: grey or RGB, resized, scaled to 0..1, and (x - mean) / std by channel."""

    input: _Name
    channels: Literal[1, 3]
    height: _Pixels
    width: _Pixels
    mean: list[float]
    std: list[float]


class OrtTrainingInfo(_Part, frozen=True):
    """Files for engine ort-training: graphs that take the weights of the same graph as inputs too, and its checkpoint.

    The memory is that of its graph "train", as in `GraphInfo`.
    """

    graphs: dict[str, str]
    checkpoint: str
    memory: dict[Monomial, _Coefficient] | None = None


class FileInfo(_Part, frozen=True):
    """Size in bytes and SHA-256 of a file."""

    size: _Bytes
    sha256: _Sha256


class Manifest(_Part, frozen=True):
    """The whole manifest."""

    schema_version: int
    model: ModelInfo
    task: Literal["causal_lm", "sequence_classification", "generic"]
    loss: Literal["causal_lm", "cross_entropy", "mse", "custom"]
    base_id: _Sha256
    adapter: AdapterInfo
    graphs: dict[str, GraphInfo]
    text: TextInfo | None
    labels: list[str] | None
    training: dict[str, _WholeNumber | float]
    files: dict[str, FileInfo]
    made_by: dict[str, str]
    image: ImageInfo | None = None
    ort_training: OrtTrainingInfo | None = None

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapter's tensors, in the order of every graph."""
        return tuple(tensor.name for tensor in self.adapter.tensors)

    @property
    def adapter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the adapter's tensors by name, in the order of every graph."""
        return {tensor.name: tuple(tensor.shape) for tensor in self.adapter.tensors}

    @property
    def classes(self) -> int | None:
        """How many classes a classifier tells apart: the width of its `logits` [batch, classes]."""
        return self.width if self.loss == "cross_entropy" else None

    @property
    def width(self) -> int | None:
        """How many numbers a row of `logits` [batch, width] has."""
        ports = {port.name: port for port in self.graphs[names.INFER].outputs}
        shape = ports["logits"].shape if "logits" in ports else []
        return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None

    def graph(self, name: str) -> GraphInfo:
        """One graph.

        Raises:
            BundleError: The bundle has none of that name.
        """
        if name not in self.graphs:
            raise BundleError(
                f"the bundle has no graph {name!r}, only {', '.join(self.graphs)}. Export the model again with it."
            )
        return self.graphs[name]

    def data_inputs(self, graph: str) -> list[Port]:
        """The inputs of a graph that are data, not adapter tensors.

        Raises:
            BundleError: The bundle has no such graph.
        """
        adapter = set(self.adapter_names)
        return [port for port in self.graph(graph).inputs if port.name not in adapter]


def base_id(base_sha256: str, infer_sha256: str) -> str:
    """What an adapter is made for: the frozen weights and the graph that computes with them."""
    return hashlib.sha256(f"{base_sha256}\n{infer_sha256}\n".encode()).hexdigest()


def file_entry(source: bytes | memoryview | Path) -> FileInfo:
    """Size and SHA-256 of a content, or of a file of one's own, which is read in pieces."""
    if not isinstance(source, Path):
        return FileInfo(size=len(source), sha256=hashlib.sha256(source).hexdigest())
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileInfo(size=file.tell(), sha256=sha256)


def decode(content: bytes | memoryview, where: str = names.MANIFEST) -> Manifest:
    """Reads a manifest.

    Args:
        content: UTF-8 JSON.
        where: Its name, for messages.

    Raises:
        BundleError: Not strict JSON, of another version, a field is missing, unknown or of the wrong type, a
            path leaves the bundle, or its parts contradict each other.
    """
    parts = strict_json.decode(content, where, BundleError)
    _check_version(parts.get("schema_version"), where)
    try:
        manifest = msgspec.convert(parts, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(
            f"{where}: not a valid manifest: {error}. Copy or export the bundle again."
        ) from error
    for check in (
        _check_paths,
        _check_graphs,
        _check_adapter,
        _check_contracts,
        _check_decode,
        _check_labels,
        _check_image,
        _check_ort_training,
        _check_base_id,
    ):
        check(manifest, where)
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Writes a manifest as indented JSON; the same manifest gives the same bytes.

    Raises:
        BundleError: `decode` would refuse it.
    """
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    decode(content, "the manifest to be written")
    return content


def _check_version(version: Any, where: str) -> None:
    """Comes first: a manifest of another version may differ in every other field."""
    if type(version) is not int:
        raise BundleError(f"{where}: expected a whole number as schema_version, got {str(version)[:40]!r}.")
    if version != SCHEMA_VERSION:
        todo = "Update edgepeft" if version > SCHEMA_VERSION else "Export the bundle again"
        raise BundleError(f"{where}: schema version {version}; this edgepeft reads {SCHEMA_VERSION}. {todo}.")


def is_path(text: str) -> bool:
    """Whether a text names a place inside a bundle: plain names joined by slashes, none of which starts with a dot."""
    return _PATH.fullmatch(text) is not None


def _check_paths(manifest: Manifest, where: str) -> None:
    """Files lie inside the bundle, and those that every bundle has are listed."""
    for path in manifest.files:
        if not is_path(path):
            raise BundleError(
                f"{where}: {path[:200]!r} is no path inside the bundle. Do not use this bundle."
            )
    if names.MANIFEST in manifest.files:
        raise BundleError(
            f"{where}: lists itself, and no file can hold its own hash. Export the bundle again."
        )
    for path in names.REQUIRED_FILES:
        if path not in manifest.files:
            raise BundleError(f"{where}: does not list {path}, which every bundle has. Export it again.")


def _check_graphs(manifest: Manifest, where: str) -> None:
    if names.INFER not in manifest.graphs:
        raise BundleError(f"{where}: has no graph {names.INFER!r}. Export the bundle again.")
    for name, graph in manifest.graphs.items():
        if graph.file not in manifest.files:
            raise BundleError(
                f"{where}: graph {name!r} is in {graph.file[:200]!r}, which is not a listed file."
            )
        for ports in (graph.inputs, graph.outputs):
            twice = _twice([port.name for port in ports])
            if twice is not None:
                raise BundleError(f"{where}: graph {name!r} has two inputs or outputs named {twice!r}.")
        if not graph.outputs:
            raise BundleError(f"{where}: graph {name!r} has no outputs. Export the bundle again.")


def _check_contracts(manifest: Manifest, where: str) -> None:
    """Every graph that is there has what a runtime feeds it and reads from it."""
    for name, contract in graphs.contracts(manifest.adapter_names, manifest.task).items():
        if name not in manifest.graphs:
            continue
        graph = manifest.graphs[name]
        for kind, wanted, ports in (
            ("input", contract.inputs, graph.inputs),
            ("output", contract.outputs, graph.outputs),
        ):
            present = {port.name for port in ports}
            missing = next((port for port in wanted if port not in present), None)
            if missing is not None:
                raise BundleError(
                    f"{where}: graph {name!r} has no {kind} {missing!r}. Export the bundle again."
                )


def _check_adapter(manifest: Manifest, where: str) -> None:
    """The adapter's tensors are inputs of every graph that takes them, so that none is fed as something else."""
    twice = _twice(list(manifest.adapter_names))
    if twice is not None:
        raise BundleError(f"{where}: two adapter tensors are named {twice!r}. Export the bundle again.")
    for name in (names.INFER, names.EVALUATE, names.TRAIN, names.DECODE):
        if name not in manifest.graphs:
            continue
        ports = {port.name: port for port in manifest.graphs[name].inputs}
        for tensor in manifest.adapter.tensors:
            port = ports.get(tensor.name)
            if port is None or (port.dtype, port.shape) != (tensor.dtype, tensor.shape):
                got = f"{port.dtype} {port.shape}" if port else "no such input"
                raise BundleError(
                    f"{where}: graph {name!r} should take the adapter tensor {tensor.name!r} as "
                    f"{tensor.dtype} {tensor.shape}, but has {got}. Export the bundle again."
                )


def _check_decode(manifest: Manifest, where: str) -> None:
    """The decode graph takes tokens and a cache, [1, heads, past, width] each, and gives scores and the grown cache."""
    if names.DECODE not in manifest.graphs:
        return
    inputs = {port.name: port for port in manifest.data_inputs(names.DECODE)}
    outputs = {port.name for port in manifest.graphs[names.DECODE].outputs}
    layers = (len(inputs) - 1) // 2
    parts = [(part, layer) for layer in range(layers) for part in ("key", "value")]
    fits = (
        inputs.keys() == {"input_ids", *(names.past(*part) for part in parts)}
        and outputs == {"logits", *(names.present(*part) for part in parts)}
        and (inputs["input_ids"].dtype, inputs["input_ids"].shape[:1]) == ("int64", [1])
        and all(_is_cache(inputs[names.past(*part)]) for part in parts)
    )
    if not fits:
        raise BundleError(f"{where}: graph {names.DECODE!r} has no key-value cache. Export the bundle again.")


def _is_cache(port: Port) -> bool:
    shape = port.shape
    sizes = [type(size) for size in shape]
    return port.dtype == "float32" and sizes == [int, int, str, int] and shape[0] == 1


def _check_labels(manifest: Manifest, where: str) -> None:
    """Every class has one name at most, and a name is one that a terminal can show."""
    if manifest.labels is None:
        return
    fault = labels.fault(manifest.labels)
    if fault is not None:
        raise BundleError(f"{where}: labels: {fault}. Export the bundle again.")
    if manifest.classes is not None and len(manifest.labels) > manifest.classes:
        raise BundleError(
            f"{where}: names {len(manifest.labels)} classes, the graph has {manifest.classes}. Export the bundle again."
        )
    if manifest.loss == "mse" and manifest.width not in (None, len(manifest.labels)):
        raise BundleError(
            f"{where}: names {len(manifest.labels)} numbers, the graph gives {manifest.width}. Export the bundle again."
        )


def _check_image(manifest: Manifest, where: str) -> None:
    """The images that are prepared are images that the model takes."""
    image = manifest.image
    if image is None:
        return
    ports = {port.name: port for port in manifest.data_inputs(names.INFER)}
    port = ports.get(image.input)
    shape = [image.channels, image.height, image.width]
    if port is None or port.dtype != "float32" or not _takes(port, shape):
        got = f"{port.dtype} {port.shape}" if port else "no such input"
        raise BundleError(
            f"{where}: image prepares {image.input!r} as float32 {shape}, but graph {names.INFER!r} has {got}. "
            "Export the bundle again."
        )
    if not len(image.mean) == len(image.std) == image.channels or min(image.std) <= 0:
        raise BundleError(
            f"{where}: image needs a mean and a std above 0 for each of {image.channels} channels. Export it again."
        )


def _check_ort_training(manifest: Manifest, where: str) -> None:
    """The other engine's files are listed, and there is one for each graph that holds weights."""
    info = manifest.ort_training
    if info is None:
        return
    wanted = {names.INFER, names.EVALUATE, names.TRAIN, names.DECODE} & manifest.graphs.keys()
    missing = sorted(wanted - info.graphs.keys())
    if missing:
        raise BundleError(
            f"{where}: ort_training has no graph {missing[0]!r}. Make it again: edgepeft-export ort-training."
        )
    for file in (*info.graphs.values(), info.checkpoint):
        if file not in manifest.files:
            raise BundleError(f"{where}: ort_training is in {file[:200]!r}, which is not a listed file.")


def _takes(port: Port, shape: list[int]) -> bool:
    """Whether a graph's input takes rows of a shape."""
    pairs = zip(port.shape[1:], shape, strict=False)
    return len(port.shape) == len(shape) + 1 and all(
        isinstance(size, str) or size == wanted for size, wanted in pairs
    )


def _check_base_id(manifest: Manifest, where: str) -> None:
    infer = manifest.files[manifest.graphs[names.INFER].file]
    if manifest.base_id != base_id(manifest.files[names.BASE].sha256, infer.sha256):
        raise BundleError(f"{where}: its base_id is not that of its files. Copy or export the bundle again.")


def _twice(values: list[str]) -> str | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)
