"""Adds to a finished bundle what engine ort-training takes: graphs of an older opset, and its training artifacts.

    bundle -> older graphs -> operators checked -> artifacts, in an environment of their own -> memory -> bundle -> compared

The frozen weights stay in base.safetensors alone: every graph takes them as inputs.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir

from edgepeft import manifest as schema
from edgepeft import names, store, tensors
from edgepeft.bundle import Bundle
from edgepeft.manifest import Monomial, OrtTrainingInfo
from edgepeft.tensors import Array
from edgepeft_export import memory
from edgepeft_export.errors import ExportError
from edgepeft_export.ort_training import comparison, differentiable, environment, older
from edgepeft_export.verify import Report

#: Stages, in order, as `progress` hears them.
STAGES = ("older graphs", "environment", "artifacts", "memory", "compare")
_FOLDER = "ort-training"
_SEED = 0
_CHECKPOINT = f"{_FOLDER}/checkpoint"


def add_ort_training(
    bundle: str | os.PathLike[str],
    environment_folder: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Adds engine ort-training to a bundle, in place and at once; adapters of the bundle stay its adapters.

    Args:
        bundle: The bundle's folder.
        environment_folder: A virtual environment for onnxruntime-training, made with pip where there is none; by
            default one in the user's cache, made once.
        progress: Told each of `STAGES`.

    Returns:
        The comparison of both engines.

    Raises:
        BundleError: The bundle is not whole, or lacks the graph "evaluate".
        ExportError: The release cannot differentiate the model, its environment cannot be made, or its gradients
            differ; the bundle is as it was.
        StorageError: The disk refused; likewise.
    """
    path = Path(bundle).resolve()
    opened = Bundle.open(path)
    store.check_writable(path)
    progress("older graphs")
    adapter = opened.initial_adapter().tensors
    training = older.training_form(opened.graph(names.EVALUATE), adapter)
    differentiable.check(training, opened.manifest.adapter_names)
    graphs = {
        graph: older.infer_form(opened.graph(graph))
        for graph in (names.INFER, names.EVALUATE, names.DECODE)
        if graph in opened.manifest.graphs
    }
    progress("environment")
    python = environment.ensure(
        Path(environment_folder) if environment_folder else environment.default_environment()
    )
    progress("artifacts")
    made = _artifacts(older.serialized(training), opened.manifest.adapter_names, python)
    progress("memory")
    peaks = _memory(opened, made[_file(names.TRAIN)], python)
    files = {_file(graph): content for graph, content in graphs.items()} | made
    kept = {name: info for name, info in opened.manifest.files.items() if not name.startswith(f"{_FOLDER}/")}
    info = OrtTrainingInfo(
        graphs={graph: _file(graph) for graph in (*graphs, names.TRAIN)},
        checkpoint=_CHECKPOINT,
        memory=peaks,
    )
    manifest = msgspec.structs.replace(
        opened.manifest,
        ort_training=info,
        files=kept | {name: schema.file_entry(content) for name, content in files.items()},
    )
    with store.new_folder(path, replaceable=lambda _: True) as folder:
        folder.chmod(path.stat().st_mode)
        for name in kept:
            _link(path / name, folder / name)
        for name, content in files.items():
            store.write_file(folder / name, content)
        store.write_file(folder / names.MANIFEST, schema.encode(manifest))
        progress("compare")
        return comparison.compare(Bundle.open(folder), folder, python)


def _file(graph: str) -> str:
    return f"{_FOLDER}/{graph}.onnx"


def _artifacts(forward: bytes, trainable: tuple[str, ...], python: Path) -> dict[str, bytes]:
    """The training model and its checkpoint, by their paths in the bundle."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "forward.onnx").write_bytes(forward)
        (folder / "trainable.json").write_text(json.dumps(trainable))
        environment.run(python, Path(__file__).with_name("artifacts.py"), folder)
        try:
            return {
                _file(names.TRAIN): (folder / "training_model.onnx").read_bytes(),
                _CHECKPOINT: (folder / "nominal_checkpoint").read_bytes(),
            }
        except OSError as error:
            raise ExportError("ort-training", f"onnxruntime-training wrote no {error.filename}.") from error


def _memory(bundle: Bundle, training: bytes, python: Path) -> dict[Monomial, float] | None:
    """What the training model's intermediate tensors take, as a polynomial; `None` where none is known of "train"."""
    if bundle.manifest.graph(names.TRAIN).memory is None:
        return None
    sizes = tensor_sizes(bundle, training, memory.POINTS, python)
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(training))
    return memory.fitted(model.graph, sizes)


def tensor_sizes(
    bundle: Bundle, training: bytes, points: Sequence[tuple[int, int]], python: Path
) -> dict[str, list[int]]:
    """Of every tensor that a node of the training model makes, its bytes in batches of some rows and lengths.

    Raises:
        ExportError: The model does not run.
    """
    rng = np.random.default_rng(_SEED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "training_model.onnx").write_bytes(training)
        _save(bundle.initial_adapter().tensors, folder / "adapter.safetensors")
        for index, (rows, length) in enumerate(points):
            _save(comparison.random_batch(bundle, rows, length, rng), folder / f"batch-{index}.safetensors")
        environment.run(python, Path(__file__).with_name("sizes.py"), bundle.path / names.BASE, folder)
        sizes: dict[str, list[int]] = json.loads((folder / "sizes.json").read_text())
    return sizes


def _save(arrays: Mapping[str, Array], path: Path) -> None:
    path.write_bytes(tensors.serialize(arrays, {}))


def _link(source: Path, target: Path) -> None:
    """The same file at another place, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
