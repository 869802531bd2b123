"""A bundle on disk: opened once, verified whole, and then used from memory only."""

import os
from collections.abc import Mapping
from pathlib import Path

from edgepeft import limits, manifest as schema, names, store, tensors
from edgepeft.adapter import Adapter, read_adapter
from edgepeft.errors import BundleError
from edgepeft.manifest import Manifest
from edgepeft.tensors import Array


class Bundle:
    """A verified bundle. Open one with `Bundle.open`.

    Every file is read once, into memory, and compared with the manifest's SHA-256; what was hashed is what is
    used. Nothing outside the folder is touched.

    Attributes:
        path: The folder.
        manifest: What is in it.
        weights: The frozen weights by name, read-only views of one buffer.
    """

    def __init__(self, path: Path, manifest: Manifest, files: Mapping[str, memoryview]) -> None:
        self.path = path
        self.manifest = manifest
        self._files = files
        self.weights: Mapping[str, Array]
        self.weights, _ = tensors.parse(files[names.BASE], f"{path}/{names.BASE}", BundleError)
        for name, graph in manifest.graphs.items():
            absent = sorted(set(graph.weights) - set(self.weights))
            if absent:
                raise BundleError(f"{path}: graph {name!r} reads {absent[0]!r}, which {names.BASE} does not have.")
        self._initial = read_adapter(
            files[f"{names.INITIAL_ADAPTER}/{names.ADAPTER_CONFIG}"],
            files[f"{names.INITIAL_ADAPTER}/{names.ADAPTER_MODEL}"],
            f"{path}/{names.INITIAL_ADAPTER}",
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Opens and verifies a bundle's folder.

        Raises:
            BundleError: A file is missing, extra, cut off or altered, the manifest is of another version or
                leaves the folder; the message names the file.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise BundleError(f"{folder}: expected a bundle's folder, got {_what(folder)}.")
        where = folder / names.MANIFEST
        content = store.read_once(where, limits.MAX_MANIFEST_BYTES, BundleError)
        manifest = schema.decode(content, str(where))
        _check_listing(folder, manifest)
        files = {name: _verified(folder / name, info) for name, info in manifest.files.items()}
        _check_complete(folder, manifest)
        return cls(folder, manifest, files)

    def graph(self, name: str) -> memoryview:
        """The ONNX model of a graph.

        Raises:
            BundleError: The bundle has no such graph.
        """
        if name not in self.manifest.graphs:
            has = ", ".join(self.manifest.graphs)
            raise BundleError(f"{self.path}: no graph {name!r}; it has {has}. Export the bundle again with it.")
        return self._files[self.manifest.graphs[name].file]

    def has_asset(self, path: str) -> bool:
        """Whether the bundle has a file, such as "assets/tokenizer.json"."""
        return path in self._files

    def asset(self, path: str) -> memoryview:
        """A file's content.

        Raises:
            BundleError: The bundle has no such file.
        """
        if path not in self._files:
            raise BundleError(f"{self.path}: has no {path}. Export the model again with its tokenizer.")
        return self._files[path]

    def initial_adapter(self) -> Adapter:
        """The adapter as it was exported: it changes nothing about the base until it is trained."""
        return self._initial


def _what(path: Path) -> str:
    return "a file" if path.exists() else "nothing there"


def _check_listing(folder: Path, manifest: Manifest) -> None:
    """The folder holds the manifest's files and nothing else."""
    found = set()
    for root, folders, files in os.walk(folder, followlinks=False):
        inside = Path(root).relative_to(folder)
        found |= {(inside / name).as_posix() for name in files}
        found |= {(inside / name).as_posix() for name in folders if (Path(root) / name).is_symlink()}
    missing = sorted(set(manifest.files) - found)
    if missing:
        raise BundleError(f"{folder}: {missing[0]} is missing. Copy the whole bundle again.")
    extra = sorted(found - set(manifest.files) - {names.MANIFEST})
    if extra:
        raise BundleError(f"{folder}: {extra[0]} is not in the manifest. Remove it, or copy the bundle again.")


def _verified(path: Path, info: schema.FileInfo) -> memoryview:
    content = store.read_once(path, limits.MAX_BUNDLE_FILE_BYTES, BundleError)
    if len(content) != info.size:
        raise BundleError(f"{path}: expected {info.size:,} bytes, got {len(content):,}. Copy the bundle again.")
    if store.sha256(content) != info.sha256:
        raise BundleError(f"{path}: was altered: its SHA-256 is not the manifest's. Copy the bundle again.")
    return content


def _check_complete(folder: Path, manifest: Manifest) -> None:
    """The files that every bundle has are there, and the base id is that of these files."""
    needed = {
        names.BASE,
        f"{names.INITIAL_ADAPTER}/{names.ADAPTER_CONFIG}",
        f"{names.INITIAL_ADAPTER}/{names.ADAPTER_MODEL}",
    }
    absent = sorted(needed - set(manifest.files))
    if absent or names.INFER not in manifest.graphs:
        raise BundleError(f"{folder}: the manifest lists no {absent[0] if absent else 'infer graph'}.")
    infer = manifest.files[manifest.graphs[names.INFER].file]
    if manifest.base_id != schema.base_id(manifest.files[names.BASE].sha256, infer.sha256):
        raise BundleError(f"{folder}: the manifest's base_id is not that of its files. Copy the bundle again.")
