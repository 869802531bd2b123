"""A trained adapter in the files of others: HF PEFT, stock ONNX Runtime, and any program that reads ONNX."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnxruntime as ort

from edgepeft import names, ort_package, store
from edgepeft.adapter import Adapter, check_fits
from edgepeft.bundle import Bundle
from edgepeft.errors import ArgumentError, EngineError, StorageError
from edgepeft.onnx_file import inputs_to_constants

#: File name of a model that stands alone.
ONNX_MODEL = "model.onnx"

#: Versions of adapter and model that ONNX Runtime's file wants; it compares them with nothing.
_VERSION = 1


def export_adapter(bundle: Bundle, adapter: Adapter, output: Path, kind: str) -> None:
    """Writes an adapter in one of `FORMATS`, durably and at once.

    Args:
        bundle: The bundle that the adapter is for.
        adapter: The adapter.
        output: A new folder, or for "onnx_adapter" a new file.
        kind: A key of `FORMATS`.

    Raises:
        ArgumentError: No such format.
        AdapterError: The adapter does not fit the bundle.
        BundleError: The bundle's graph does not take the adapter as it should.
        EngineError: The installed ONNX Runtime cannot write the format.
        StorageError: The output exists, or the file system refused; nothing was changed.
    """
    if kind not in FORMATS:
        raise ArgumentError(f"unknown format {kind!r}; expected one of {', '.join(FORMATS)}.")
    check_fits(adapter, bundle.manifest, bundle.initial_adapter())
    with store.refusals(output):
        taken = output.is_symlink() or output.exists()
    if taken:
        raise StorageError(f"{output}: exists. Give another place, or remove it first.")
    FORMATS[kind](bundle, adapter, output)


def _write_peft(bundle: Bundle, adapter: Adapter, output: Path) -> None:
    del bundle
    adapter.save(output)


def _write_onnx_adapter(bundle: Bundle, adapter: Adapter, output: Path) -> None:
    """ONNX Runtime's own file: `LoraAdapter` and `RunOptions.add_active_adapter` feed it to the infer graph."""
    package = ort_package.installed()
    if package.trains:
        raise EngineError(
            f"{package.name} {package.version} cannot write this format. Write it where edgepeft[onnxruntime] is "
            "installed, or as peft."
        )
    parameters = {
        name: ort.OrtValue.ortvalue_from_numpy(adapter.tensors[name])
        for name in bundle.manifest.adapter_names
    }
    kind = ort.AdapterFormat()
    kind.set_adapter_version(_VERSION)
    kind.set_model_version(_VERSION)
    kind.set_parameters(parameters)  # it keeps pointers only: `parameters` must live until the file is made
    # ONNX Runtime truncates and writes in place, without a sync: it gets a file of its own, the disk gets ours.
    with _file_elsewhere() as path:
        kind.export_adapter(str(path))
        store.write_file(output, path.read_bytes())


@contextlib.contextmanager
def _file_elsewhere() -> Iterator[Path]:
    """A file in memory, by a path; one in a temporary folder where the system has none, as macOS."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "adapter"
        return
    descriptor = os.memfd_create("adapter")
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _write_onnx(bundle: Bundle, adapter: Adapter, output: Path) -> None:
    """The infer graph with the adapter inside, and the frozen weights beside it, where the graph expects them."""
    tensors = {name: adapter.tensors[name] for name in bundle.manifest.adapter_names}
    where = f"{bundle.path}/{bundle.manifest.graphs[names.INFER].file}"
    files: dict[str, bytes | memoryview] = {
        ONNX_MODEL: inputs_to_constants(bundle.graph(names.INFER), tensors, where),
        names.BASE: bundle.base,
    }
    store.write_folder(output, files, replaceable=lambda _: False)


#: What an adapter can be written as.
FORMATS: Mapping[str, Callable[[Bundle, Adapter, Path], None]] = {
    "peft": _write_peft,
    "onnx_adapter": _write_onnx_adapter,
    "onnx": _write_onnx,
}
