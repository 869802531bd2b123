"""Adapters for others: stock ONNX Runtime, without edgepeft, gives the answers that edgepeft gives."""

import errno
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from foreign_files import snapshot

import edgepeft
from edgepeft import names, ort_package, store
from edgepeft.errors import AdapterError, ArgumentError, BundleError, EngineError, StorageError
from edgepeft.formats import FORMATS, export_adapter
from edgepeft.onnx_file import inputs_to_constants

IDS = np.arange(3, 27).reshape(2, 12)
MASK = np.array([[1] * 12, [1] * 7 + [0] * 5])
#: The formats, with the one that onnxruntime-training cannot write marked.
KINDS = [
    pytest.param(kind, marks=pytest.mark.stock("cannot write the format, which came after it"))
    if kind == "onnx_adapter"
    else kind
    for kind in FORMATS
]
#: A batch for each of the small bundles.
BATCHES = {
    "tiny-llama": {"input_ids": IDS, "attention_mask": MASK},
    "tiny-bert": {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)},
    "conv-net": {"image": np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)},
}


def trained(bundle: edgepeft.Bundle, seed: int = 1) -> edgepeft.Adapter:
    """An adapter that changes what the base says."""
    generator = np.random.default_rng(seed)
    initial = bundle.initial_adapter()
    tensors = {
        name: value + 0.3 * generator.standard_normal(value.shape).astype(np.float32)
        for name, value in sorted(initial.tensors.items())
    }
    return edgepeft.Adapter(tensors, initial.config, initial.base_id)


@pytest.fixture(params=sorted(BATCHES))
def case(request: pytest.FixtureRequest, bundles: Path) -> tuple[edgepeft.Model, dict[str, np.ndarray]]:
    """A model under a trained adapter, and a batch; the adapter matters to the answer."""
    bundle = edgepeft.Bundle.open(bundles / request.param)
    model = edgepeft.load(bundle, trained(bundle), threads=1)
    batch = BATCHES[request.param]
    untrained = edgepeft.load(bundle, threads=1).predict(batch)["logits"]
    assert np.abs(model.predict(batch)["logits"] - untrained).max() > 1e-3
    return model, batch


def quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return options


@pytest.mark.stock("does not know opset 23, which the model has")
def test_a_model_that_stands_alone(case: tuple, tmp_path: Path) -> None:
    """The folder is moved elsewhere, the bundle is not needed: same outputs, no adapter input."""
    model, batch = case
    export_adapter(model.bundle, model.adapter, tmp_path / "made", "onnx")
    (tmp_path / "made").rename(tmp_path / "moved")
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == [names.BASE, "model.onnx"]
    session = ort.InferenceSession(tmp_path / "moved" / "model.onnx", quiet())
    assert [port.name for port in session.get_inputs()] == list(batch)
    expected = model.predict(batch)
    for name, value in zip(expected, session.run(list(expected), batch), strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_the_base_stays_as_it_was(case: tuple, tmp_path: Path) -> None:
    """The frozen weights are copied byte for byte: the product of low rank is not folded into them."""
    model, _ = case
    export_adapter(model.bundle, model.adapter, tmp_path / "made", "onnx")
    assert (tmp_path / "made" / names.BASE).read_bytes() == (model.bundle.path / names.BASE).read_bytes()


@pytest.mark.stock("cannot write the format, which came after it")
def test_an_adapter_file_of_onnx_runtime(case: tuple, tmp_path: Path) -> None:
    """`LoraAdapter` feeds it to the bundle's own infer graph: same outputs.

    The Python package wants all inputs in the call, the adapter's too, before it looks at the adapter, which then
    takes their place: zeros will do. Other languages' packages do not ask for them.
    """
    model, batch = case
    path = tmp_path / "alice.onnx_adapter"
    export_adapter(model.bundle, model.adapter, path, "onnx_adapter")
    session = ort.InferenceSession(model.bundle.path / "graphs/infer.onnx", with_weights(model.bundle))
    adapter = ort.LoraAdapter()
    adapter.Load(str(path))
    options = ort.RunOptions()
    options.add_active_adapter(adapter)
    zeros = {name: np.zeros_like(value) for name, value in model.adapter.tensors.items()}
    expected = model.predict(batch)
    for name, value in zip(expected, session.run(list(expected), batch | zeros, options), strict=True):
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def with_weights(bundle: edgepeft.Bundle) -> ort.SessionOptions:
    """The graph looks for base.safetensors beside itself; it lies one folder up."""
    options = quiet()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(bundle.path.absolute())
    )
    return options


@pytest.mark.stock("cannot write the format, which came after it")
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_adapter_file_holds_the_very_values(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    """Bit for bit, as ONNX Runtime reads them back; also where a system has no files in memory, as macOS."""
    if not in_memory:
        monkeypatch.delattr("os.memfd_create")
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    adapter = trained(bundle)
    path = tmp_path / "a.onnx_adapter"
    export_adapter(bundle, adapter, path, "onnx_adapter")
    kind = ort.AdapterFormat.read_adapter(str(path))
    found = {name: value.numpy() for name, value in kind.get_parameters().items()}
    assert found.keys() == adapter.tensors.keys()
    assert all(np.array_equal(found[name], value) for name, value in adapter.tensors.items())


def test_a_peft_folder(bundles: Path, tmp_path: Path) -> None:
    """As `Adapter.save` writes it."""
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    adapter = trained(bundle)
    export_adapter(bundle, adapter, tmp_path / "made", "peft")
    adapter.save(tmp_path / "saved")
    assert snapshot(tmp_path / "made") == snapshot(tmp_path / "saved")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_adapter_that_does_not_fit(bundles: Path, tmp_path: Path, kind: str) -> None:
    """Is refused before anything is written, in every format."""
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    adapter = trained(bundle)
    bad = edgepeft.Adapter(dict(list(adapter.tensors.items())[1:]), adapter.config, adapter.base_id)
    with pytest.raises(AdapterError, match="lacks"):
        export_adapter(bundle, bad, tmp_path / "made", kind)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("kind", FORMATS)
def test_an_output_that_exists_stays(bundles: Path, tmp_path: Path, kind: str) -> None:
    """A file, a folder and a link, in every format."""
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    before = snapshot(tmp_path)
    for name in ("folder", "file", "link"):
        with pytest.raises(StorageError, match=f"{name}: exists"):
            export_adapter(bundle, trained(bundle), tmp_path / name, kind)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Leaves nothing of the output, in every format."""
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    adapter = trained(bundle)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StorageError, match="Free some space"):
        export_adapter(bundle, adapter, tmp_path / "made", kind)
    monkeypatch.undo()
    assert snapshot(tmp_path) == {}


def test_a_package_that_cannot_write_it(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-training is older than ONNX Runtime's adapter files; that is said, and nothing written."""
    package = ort_package.Package("onnxruntime-training-cpu", "1.19.2", trains=True)
    monkeypatch.setattr(ort_package, "installed", lambda: package)
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    with pytest.raises(EngineError, match=r"onnxruntime-training-cpu 1\.19\.2 cannot write this format"):
        export_adapter(bundle, bundle.initial_adapter(), tmp_path / "made", "onnx_adapter")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format(bundles: Path, tmp_path: Path) -> None:
    """The message lists those that are known."""
    bundle = edgepeft.Bundle.open(bundles / "conv-net")
    with pytest.raises(ArgumentError, match="peft, onnx_adapter, onnx"):
        export_adapter(bundle, trained(bundle), tmp_path / "made", "gguf")


def test_a_graph_that_is_none(handmade: Path) -> None:
    """The bytes are refused, not handed to ONNX Runtime."""
    bundle = edgepeft.Bundle.open(handmade / "chat")
    with pytest.raises(BundleError, match="infer: expected an ONNX file"):
        inputs_to_constants(b"infer graph", bundle.initial_adapter().tensors, "infer")
