"""The bundle's manifest: what is in it, checked field by field (docs/bundle-format.md)."""

import hashlib
import re
from typing import Annotated, Literal

import msgspec

from edgepeft import limits
from edgepeft.errors import BundleError

#: Version of the format that this runtime writes and reads.
SCHEMA_VERSION = 1

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_NAME_LENGTH)]
_Dtype = Literal["float32", "float64", "int64", "int32", "bool", "uint8"]

#: A path inside the bundle: plain names joined by slashes.
_PATH = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*(/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)*")


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest: read-only, no field that this version does not know."""


class ModelInfo(_Part):
    """Which model was exported, and how many parameters its base has."""

    name: str
    architecture: str
    parameters: _Count


class AdapterTensor(_Part):
    """One tensor of the adapter."""

    name: _Name
    dtype: Literal["float32"]
    shape: list[_Size]


class AdapterInfo(_Part):
    """The adapter's tensors, and the method of HF PEFT that made them, if one did."""

    peft_type: str | None
    tensors: Annotated[list[AdapterTensor], msgspec.Meta(min_length=1)]


class Port(_Part):
    """An input or output of a graph; a text in the shape names a dimension that varies."""

    name: _Name
    dtype: _Dtype
    shape: list[_Size | str]


class GraphInfo(_Part):
    """One graph: its file, its inputs and outputs in order, and the frozen weights that it reads."""

    file: str
    inputs: list[Port]
    outputs: list[Port]
    weights: list[_Name]


class TextInfo(_Part):
    """What a language model's tokenizer and positions need."""

    bos_token_id: int | None
    eos_token_ids: list[int]
    pad_token_id: int
    max_length: _Size


class FileInfo(_Part):
    """Size in bytes and SHA-256 of a file."""

    size: _Count
    sha256: _Sha256


class Manifest(_Part):
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
    training: dict[str, int | float]
    files: dict[str, FileInfo]
    made_by: dict[str, str]

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapter's tensors, in the order of every graph."""
        return tuple(tensor.name for tensor in self.adapter.tensors)

    def data_inputs(self, graph: str) -> list[Port]:
        """The inputs of a graph that are data, not adapter tensors."""
        adapter = set(self.adapter_names)
        return [port for port in self.graphs[graph].inputs if port.name not in adapter]


class _Version(msgspec.Struct):
    schema_version: int


def base_id(base_sha256: str, infer_sha256: str) -> str:
    """What an adapter is made for: the frozen weights and the graph that computes with them."""
    return hashlib.sha256(f"{base_sha256}\n{infer_sha256}\n".encode()).hexdigest()


def decode(content: bytes | memoryview, where: str) -> Manifest:
    """Reads a manifest.

    Raises:
        BundleError: Not JSON, of a newer version, or a field is missing, unknown or of the wrong type.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{where}: schema version {version}; this edgepeft reads version {SCHEMA_VERSION}. "
                f"{'Update edgepeft' if version > SCHEMA_VERSION else 'Export the bundle again'}."
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{where}: not a valid manifest: {error}. Copy or export the bundle again.") from error
    _check(manifest, where)
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Writes a manifest as indented JSON; the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _check(manifest: Manifest, where: str) -> None:
    """Checks what types cannot say: paths stay inside, graphs are listed files, names are unique."""
    for path in manifest.files:
        if not _PATH.fullmatch(path) or ".." in path:
            raise BundleError(f"{where}: {path!r} is no path inside the bundle. Do not use this bundle.")
    for name, graph in manifest.graphs.items():
        if graph.file not in manifest.files:
            raise BundleError(f"{where}: graph {name!r} is in {graph.file!r}, which is not a listed file.")
        for ports in (graph.inputs, graph.outputs):
            if len({port.name for port in ports}) != len(ports):
                raise BundleError(f"{where}: graph {name!r} has two inputs or outputs of one name.")
    if len(set(manifest.adapter_names)) != len(manifest.adapter_names):
        raise BundleError(f"{where}: two adapter tensors have one name.")
