"""Engine ort-training: what is its own; that it does what every engine does, the other tests show on it too."""

import json
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepeft
from edgepeft import manifest, names, ort_package
from edgepeft.engines.ort_training import OrtTrainingEngine
from edgepeft.errors import BundleError, EngineError

BATCH = {"image": np.ones((2, 1, 8, 8), np.float32), "labels": np.array([1, 2])}

needs_package = pytest.mark.skipif(
    not ort_package.installed().trains,
    reason="needs onnxruntime-training; make test runs it in its environment",
)


def open_engine(bundle: edgepeft.Bundle) -> OrtTrainingEngine:
    assert bundle.manifest.ort_training is not None
    return OrtTrainingEngine(bundle, bundle.manifest.ort_training, 1)


def moved(model: edgepeft.Model, count: int) -> list[Any]:
    """Adapters, ready to run, each moved off the start in another way."""
    rng = np.random.default_rng(0)
    return [
        model.engine.prepare(
            {
                name: (value + 0.1 * rng.standard_normal(value.shape)).astype(np.float32)
                for name, value in model.adapter.tensors.items()
            }
        )
        for _ in range(count)
    ]


@needs_package
def test_nothing_is_left_on_the_disk(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package takes files; what was written for it is gone when it has them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = open_engine(edgepeft.Bundle.open(bundles / "conv-net"))
    adapter = engine.prepare(edgepeft.Bundle.open(bundles / "conv-net").initial_adapter().tensors)
    assert np.isfinite(engine.run(names.TRAIN, BATCH, adapter)["loss"])
    assert list(tmp_path.iterdir()) == []


@needs_package
def test_gradients_are_those_of_the_adapter_that_is_given(bundles: Path) -> None:
    """The package keeps one adapter and its gradients; a call has neither of the call before."""
    model = edgepeft.load(bundles / "conv-net")
    assert isinstance(model.engine, OrtTrainingEngine)
    adapters = moved(model, 2)
    first = model.engine.run(names.TRAIN, BATCH, adapters[0])
    second = model.engine.run(names.TRAIN, BATCH, adapters[1])
    again = model.engine.run(names.TRAIN, BATCH, adapters[0])
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(np.abs(first[name] - second[name]).max() > 1e-4 for name in first)


@needs_package
def test_two_threads_train_and_two_predict(bundles: Path) -> None:
    """Each gets the answers of its own adapter, though the package holds one adapter and its gradients."""
    model = edgepeft.load(bundles / "conv-net")
    adapters = moved(model, 4)
    pairs = list(zip([names.TRAIN, names.TRAIN, names.INFER, names.INFER], adapters, strict=True))
    expected = [model.engine.run(graph, BATCH, adapter) for graph, adapter in pairs]
    wrong: list[str] = []

    def body(index: int) -> None:
        graph, adapter = pairs[index]
        for _ in range(60):
            got = model.engine.run(graph, BATCH, adapter)
            wrong.extend(
                name for name, value in expected[index].items() if not np.array_equal(got[name], value)
            )

    threads = [threading.Thread(target=body, args=(index,)) for index in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_package
def test_no_place_for_files(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that can only be read says what to set."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no-such-place")
    model = edgepeft.load(bundles / "conv-net")
    with pytest.raises(EngineError, match=r"there is no place for them: .* Set TMPDIR"):
        model.engine.run(names.TRAIN, BATCH, model.engine.prepare(model.adapter.tensors))


@needs_package
def test_torch_stays_out(bundles: Path) -> None:
    """Training imports the package's training API without what its own beginning imports."""
    model = edgepeft.load(bundles / "conv-net")
    model.engine.run(names.TRAIN, BATCH, model.engine.prepare(model.adapter.tensors))
    assert "onnxruntime.training.api" in sys.modules
    assert not {"torch", "onnx"} & sys.modules.keys()


@needs_package
def test_a_batch_that_the_package_refuses(bundles: Path) -> None:
    """Is told as on the other engine: by graph and reason."""
    model = edgepeft.load(bundles / "conv-net")
    batch = BATCH | {"labels": np.array([1, 2, 3])}
    with pytest.raises(EngineError, match="graph 'train': onnxruntime-training refused the batch"):
        model.engine.run(names.TRAIN, batch, model.engine.prepare(model.adapter.tensors))


def forged(bundles: Path, tmp_path: Path, change: dict[str, object]) -> Path:
    """A copy of a bundle whose manifest says something else of the engine's files."""
    shutil.copytree(bundles / "conv-net", tmp_path / "bundle")
    path = tmp_path / "bundle" / names.MANIFEST
    content = json.loads(path.read_text())
    content["ort_training"] |= change
    path.write_text(json.dumps(content))
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"graphs": {"infer": "ort-training/infer.onnx"}}, "ort_training has no graph 'evaluate'"),
        ({"checkpoint": "../checkpoint"}, r"ort_training is in '../checkpoint', which is not a listed file"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    bundles: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    """Is refused on every engine."""
    with pytest.raises(BundleError, match=words):
        edgepeft.Bundle.open(forged(bundles, tmp_path, change))


@needs_package
def test_the_training_model_of_another_bundle(bundles: Path, tmp_path: Path) -> None:
    """Its adapter and inputs are others; that is said before a step is made."""
    bundle = forged(bundles, tmp_path, {})
    content = json.loads((bundle / names.MANIFEST).read_text())
    for name in ("train.onnx", "checkpoint"):
        shutil.copy(bundles / "embedder" / "ort-training" / name, bundle / "ort-training" / name)
        entry = manifest.file_entry(bundle / "ort-training" / name)
        content["files"][f"ort-training/{name}"] = {"size": entry.size, "sha256": entry.sha256}
    (bundle / names.MANIFEST).write_text(json.dumps(content))
    model = edgepeft.load(bundle)
    with pytest.raises(EngineError, match="the training model is not the bundle's"):
        model.engine.run(names.TRAIN, BATCH, model.engine.prepare(model.adapter.tensors))


@needs_package
def test_a_training_model_that_the_package_refuses(bundles: Path, tmp_path: Path) -> None:
    """The message says how to make it again."""
    bundle = forged(bundles, tmp_path, {})
    path = bundle / "ort-training" / "checkpoint"
    path.write_bytes(b"no checkpoint")
    content = json.loads((bundle / names.MANIFEST).read_text())
    entry = manifest.file_entry(path)
    content["files"]["ort-training/checkpoint"] = {"size": entry.size, "sha256": entry.sha256}
    (bundle / names.MANIFEST).write_text(json.dumps(content))
    model = edgepeft.load(bundle)
    with pytest.raises(EngineError, match=r"refused the training model: .*edgepeft-export ort-training"):
        model.engine.run(names.TRAIN, BATCH, model.engine.prepare(model.adapter.tensors))
