"""A bundle on disk: opened once, verified whole, and then used from memory only."""

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from edgepeft import limits, names, tensors
from edgepeft import manifest as schema
from edgepeft.adapter import Adapter, check_fits, read_adapter
from edgepeft.errors import AdapterError, BundleError
from edgepeft.manifest import Manifest
from edgepeft.store import FolderReader, folder_path
from edgepeft.tensors import Array


class Bundle:
    """A verified bundle. Open one with `Bundle.open`.

    Every file is read once, into memory, and compared with the manifest's SHA-256; what was hashed is what is
    used, whatever happens to the folder afterwards. Nothing outside the folder is touched.

    Attributes:
        path: The folder.
        manifest: What is in it.
        base: Content of `base.safetensors`.
        weights: The frozen weights by name, read-only views of `base`.
    """

    def __init__(self, path: Path, manifest: Manifest, files: Mapping[str, memoryview]) -> None:
        self.path = path
        self.manifest = manifest
        self.base = files[names.BASE]
        self.weights = _weights(self.base, manifest, f"{path}/{names.BASE}")
        self._initial = _initial_adapter(path, manifest, files)
        # Everything else is small, and kept as what its readers want; the buffers behind `files` can go.
        kept = files.keys() - set(names.REQUIRED_FILES)
        self._files = {name: bytes(files[name]) for name in kept}

    def __repr__(self) -> str:
        return f"<Bundle {self.manifest.model.name} in {str(self.path)!r}>"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Opens and verifies a bundle's folder.

        Raises:
            ArgumentError: `path` is no path.
            BundleError: A file is missing, extra, cut off, altered or a link, the manifest is malformed, of
                another version or leaves the folder; the message names the file.
        """
        folder = folder_path("bundle", path)
        with FolderReader(folder, BundleError) as reader:
            manifest = _read_manifest(reader)
            _check_listing(reader, manifest)
            files = _verified_files(reader, manifest)
        return cls(folder, manifest, files)

    def graph(self, name: str) -> bytes:
        """The ONNX model of a graph.

        Raises:
            BundleError: The bundle has no such graph.
        """
        if name not in self.manifest.graphs:
            has = ", ".join(self.manifest.graphs)
            raise BundleError(
                f"{self.path}: no graph {name!r}; it has {has}. Export the bundle again with it."
            )
        return self._files[self.manifest.graphs[name].file]

    def has_asset(self, path: str) -> bool:
        """Whether the bundle has a file beside its weights and adapter, such as "assets/tokenizer.json"."""
        return path in self._files

    def asset(self, path: str) -> bytes:
        """Content of a file that `has_asset` knows.

        Raises:
            BundleError: The bundle has no such file.
        """
        if path not in self._files:
            raise BundleError(f"{self.path}: has no {path}. Export the model again with it.")
        return self._files[path]

    def initial_adapter(self) -> Adapter:
        """The adapter as it was exported: it changes nothing about the base until it is trained."""
        return self._initial


def read_manifest(path: Path) -> Manifest:
    """A bundle's manifest alone: nothing else of it is read, or verified.

    Raises:
        BundleError: The folder is no bundle, or the manifest is malformed.
    """
    with FolderReader(path, BundleError) as reader:
        return _read_manifest(reader)


def _read_manifest(reader: FolderReader) -> Manifest:
    _check_is_bundle(reader)
    content = reader.read(names.MANIFEST, limits.MAX_MANIFEST_BYTES)
    return schema.decode(content, f"{reader.path}/{names.MANIFEST}")


def _check_is_bundle(reader: FolderReader) -> None:
    """What is in a folder without a manifest, by the usual mistakes."""
    if reader.has(names.MANIFEST):
        return
    if reader.has(names.ADAPTER_CONFIG):
        raise BundleError(
            f"{reader.path}: is an adapter, not a bundle. Give the bundle, and this as its adapter."
        )
    if reader.has("config.json"):
        raise BundleError(
            f"{reader.path}: is a model of Hugging Face, not a bundle. Export it first: edgepeft-export hf."
        )
    raise BundleError(
        f"{reader.path}: is no bundle: it has no {names.MANIFEST}. Give the folder that edgepeft-export wrote."
    )


def _check_listing(reader: FolderReader, manifest: Manifest) -> None:
    """The folder holds the manifest's files and nothing else; an unknown folder is not looked into."""
    expected = {names.MANIFEST, *manifest.files}
    folders = {parent.as_posix() for path in expected for parent in PurePosixPath(path).parents}
    folders.remove(".")
    found = {names.MANIFEST}
    waiting = [""]
    while waiting:
        with closing(reader.entries(waiting.pop())) as entries:
            for path, is_folder in entries:
                if is_folder and path in folders:
                    waiting.append(path)
                elif path in expected:
                    found.add(path)
                else:
                    raise BundleError(
                        f"{reader.path}: {path!r} is not in the manifest. Remove it, or copy the bundle again."
                    )
    missing = sorted(expected - found)
    if missing:
        raise BundleError(f"{reader.path}: {missing[0]} is missing. Copy the whole bundle again.")


def _verified_files(reader: FolderReader, manifest: Manifest) -> dict[str, memoryview]:
    """Reads every file, small ones first: a fault in one is found before the weights are read."""
    files = {}
    for name, info in sorted(manifest.files.items(), key=lambda item: item[1].size):
        content = reader.read(name, info.size)
        where = f"{reader.path}/{name}"
        if len(content) != info.size:
            raise BundleError(
                f"{where}: expected {info.size:,} bytes, got {len(content):,}. Copy the bundle again."
            )
        if schema.file_entry(content) != info:
            raise BundleError(
                f"{where}: was altered: its SHA-256 is not the manifest's. Copy the bundle again."
            )
        files[name] = content
    return files


def _weights(content: memoryview, manifest: Manifest, where: str) -> Mapping[str, Array]:
    weights, _ = tensors.parse(content, where, BundleError)
    for name, array in weights.items():
        if not array.flags.aligned:
            raise BundleError(
                f"{where}: tensor {name!r} is not aligned and cannot be used in place. Export the bundle again."
            )
    for graph, info in manifest.graphs.items():
        missing = next((name for name in info.weights if name not in weights), None)
        if missing is not None:
            raise BundleError(
                f"{where}: lacks {missing!r}, which graph {graph!r} reads. Export the bundle again."
            )
    return MappingProxyType(weights)


def _initial_adapter(path: Path, manifest: Manifest, files: Mapping[str, memoryview]) -> Adapter:
    config, model = (
        f"{names.INITIAL_ADAPTER}/{name}" for name in (names.ADAPTER_CONFIG, names.ADAPTER_MODEL)
    )
    try:
        adapter = read_adapter(files[config], files[model], f"{path}/{names.INITIAL_ADAPTER}")
        check_fits(adapter, manifest, adapter)
    except AdapterError as error:
        raise BundleError(f"{path}: its own adapter is unusable: {error} Export the bundle again.") from error
    return adapter
