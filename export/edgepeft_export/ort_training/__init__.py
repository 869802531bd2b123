"""Adds to a finished bundle what engine ort-training takes: graphs of an older opset, and its training artifacts.

    bundle -> older graphs -> operators checked -> artifacts, in an environment of their own -> bundle -> compared

The frozen weights stay in base.safetensors alone: every graph takes them as inputs.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgepeft import manifest as schema
from edgepeft import names, store
from edgepeft.bundle import Bundle
from edgepeft.manifest import OrtTrainingInfo
from edgepeft_export.errors import ExportError
from edgepeft_export.ort_training import differentiable, environment, older
from edgepeft_export.ort_training.comparison import compare
from edgepeft_export.verify import Report

#: Stages, in order, as `progress` hears them.
STAGES = ("older graphs", "environment", "artifacts", "compare")
_FOLDER = "ort-training"
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
    files = {_file(graph): content for graph, content in graphs.items()} | made
    kept = {name: info for name, info in opened.manifest.files.items() if not name.startswith(f"{_FOLDER}/")}
    info = OrtTrainingInfo(
        graphs={graph: _file(graph) for graph in (*graphs, names.TRAIN)}, checkpoint=_CHECKPOINT
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
        return compare(Bundle.open(folder), folder, python)


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


def _link(source: Path, target: Path) -> None:
    """The same file at another place, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
