"""The sample in JavaScript computes what edgepeft computes, refuses what it refuses, and shares its files."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepeft
from edgepeft.engines.base import StepSettings, TrainState

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "embedded_js"
#: What trainer.mjs takes where a bundle recommends nothing.
SETTINGS = StepSettings(learning_rate=5e-3, max_grad_norm=1.0)
#: Rows of each batch of each step: one batch, several, and several that count differently.
STEPS = [
    [[0, 1, 2, 3]],
    [[4, 5, 6, 7], [8, 9, 10, 11]],
    [[12, 13, 14, 15, 16], [17, 18], [19]],
    [[20]],
    [[21, 22]],
]

NODE, NPM = shutil.which("node"), shutil.which("npm")
pytestmark = pytest.mark.skipif(not (NODE and NPM), reason="needs Node.js and npm")


@pytest.fixture(scope="module")
def sample() -> Path:
    """The sample with its packages, which are installed once for a lock file."""
    folder = ROOT / "build" / "embedded_js"
    folder.mkdir(parents=True, exist_ok=True)
    lock, installed = SAMPLE / "package-lock.json", folder / "node_modules" / ".installed-lock.json"
    for path in SAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copy(Path(__file__).parent / "embedded_js_driver.mjs", folder / "driver.mjs")
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        done = subprocess.run([NPM, "ci"], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shutil.copy(lock, installed)
    return folder


@pytest.fixture
def bundle(bundles: Path) -> Path:
    """A small convolutional net with random weights."""
    return bundles / "conv-net"


@pytest.fixture
def model(bundle: Path) -> edgepeft.Model:
    """The same bundle in edgepeft."""
    return edgepeft.load(bundle)


def node(sample: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A program of the sample's folder."""
    return subprocess.run(
        [NODE, *map(str, arguments)], cwd=sample, capture_output=True, text=True, check=False
    )


def drive(sample: Path, bundle: Path, output: Path, steps: Sequence[Any], adapter: Path | None = None) -> Any:
    """What the driver tells of a plan."""
    plan = {"adapter": adapter and str(adapter), "steps": steps, "output": str(output)}
    done = node(sample, "driver.mjs", bundle, json.dumps(plan))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def digits(part: str) -> dict[str, np.ndarray]:
    """The sample's data as its sensor sees them: a pixel to the right, half the contrast, on grey."""
    data = json.loads((SAMPLE / "digits.json").read_text())[part]
    clean = np.array(data["images"]).reshape(-1, 1, 8, 8)
    shifted = np.zeros(clean.shape)
    shifted[..., 1:] = clean[..., :-1] / 16
    return {"image": (0.25 + 0.5 * shifted).astype(np.float32), "labels": np.array(data["labels"])}


def train_in_python(model: edgepeft.Model) -> tuple[list[float], list[float], TrainState]:
    """Losses, gradient norms and the state after `STEPS`."""
    rows = digits("train")
    stepper = model.engine.stepper(TrainState.fresh("adamw", model.adapter.tensors))
    results = [
        stepper.step([{name: array[batch] for name, array in rows.items()} for batch in batches], SETTINGS)
        for batches in STEPS
    ]
    return [r.loss for r in results], [r.gradient_norm for r in results], stepper.state()


def test_both_train_alike(sample: Path, bundle: Path, model: edgepeft.Model, tmp_path: Path) -> None:
    """Five steps, with and without accumulation: the same losses, norms and adapter, and a lower loss."""
    told = drive(sample, bundle, tmp_path / "adapter", STEPS)
    losses, norms, state = train_in_python(model)
    np.testing.assert_allclose([each["loss"] for each in told["results"]], losses, atol=1e-4)
    np.testing.assert_allclose([each["gradientNorm"] for each in told["results"]], norms, rtol=1e-3)
    adapter = edgepeft.Adapter.load(tmp_path / "adapter")
    for name, tensor in state.adapter.items():
        np.testing.assert_allclose(adapter.tensors[name], tensor, atol=1e-5)
        assert not np.array_equal(tensor, model.adapter.tensors[name]), f"{name} did not learn"


def test_both_predict_alike_under_either_adapter(
    sample: Path, bundle: Path, model: edgepeft.Model, tmp_path: Path
) -> None:
    """Logits of the trained and of the initial adapter, and of the trained one again after the swap back."""
    told = drive(sample, bundle, tmp_path / "adapter", STEPS)
    batch = {"image": digits("test")["image"]}
    before = model.predict(batch)["logits"]
    model.use(edgepeft.Adapter.load(tmp_path / "adapter"))
    after = model.predict(batch)["logits"]
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_allclose(np.reshape(told["before"], before.shape), before, atol=1e-5)
    np.testing.assert_allclose(np.reshape(told["after"], after.shape), after, atol=1e-5)
    assert told["again"] == told["after"]


def test_python_goes_on_where_javascript_stopped(
    sample: Path, bundle: Path, model: edgepeft.Model, tmp_path: Path
) -> None:
    """The adapter loads with its base id, measures the same held-out loss, and is trained further."""
    told = drive(sample, bundle, tmp_path / "adapter", STEPS)
    adapter = edgepeft.Adapter.load(tmp_path / "adapter")
    assert adapter.base_id == model.bundle.manifest.base_id
    model.use(adapter)
    held_out, rows = digits("test"), digits("train")
    arguments = edgepeft.TrainingArguments(learning_rate=5e-3, max_steps=10, batch_size=40)

    def records(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [{name: array[row] for name, array in arrays.items()} for row in range(40)]

    result = edgepeft.Trainer(model, arguments).fit(records(rows), records(held_out))
    assert result.evaluation_losses[0] == (0, pytest.approx(told["loss"], abs=1e-5))
    assert result.losses[-1] < result.losses[0]


def test_javascript_goes_on_where_python_stopped(
    sample: Path, bundle: Path, model: edgepeft.Model, tmp_path: Path
) -> None:
    """An adapter that edgepeft saved loads there, and comes back bit for bit."""
    _, _, state = train_in_python(model)
    trained = edgepeft.Adapter(state.adapter, model.adapter.config, model.bundle.manifest.base_id)
    trained.save(tmp_path / "python")
    drive(sample, bundle, tmp_path / "javascript", [], adapter=tmp_path / "python")
    back = edgepeft.Adapter.load(tmp_path / "javascript")
    assert back.config == trained.config
    assert back.tensors.keys() == trained.tensors.keys()
    for name, tensor in trained.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)


def test_its_adapter_opens_in_peft(sample: Path, bundle: Path, tmp_path: Path) -> None:
    """PEFT attaches it to the PyTorch model, which then predicts the same."""
    import torch
    from peft import PeftModel
    from small_models import ConvNet

    told = drive(sample, bundle, tmp_path / "adapter", STEPS)
    peft_model = PeftModel.from_pretrained(ConvNet(), tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = peft_model(torch.from_numpy(digits("test")["image"])).numpy()
    np.testing.assert_allclose(np.reshape(told["after"], logits.shape), logits, atol=1e-4)


def test_the_story(sample: Path, bundle: Path, model: edgepeft.Model, tmp_path: Path) -> None:
    """The program verifies every file, its loss falls, and the swap back to the initial adapter is exact."""
    done = node(sample, "main.mjs", bundle, tmp_path / "adapter")
    assert done.returncode == 0, done.stderr
    assert f"{len(model.bundle.manifest.files)} files verified" in done.stdout
    epochs = [
        np.mean([float(loss) for loss in line.split()])
        for line in re.findall(r"^epoch +\d+ loss (.*)$", done.stdout, re.MULTILINE)
    ]
    assert len(epochs) == 7
    assert epochs[-1] < epochs[0] - 0.05
    before, initial = (
        re.search(rf"^{word} +(.*)$", done.stdout, re.MULTILINE)[1] for word in ("before", "initial")
    )
    assert before == initial
    assert edgepeft.Adapter.load(tmp_path / "adapter").tensors.keys() == set(
        model.bundle.manifest.adapter_names
    )


def flip_last_byte(path: Path) -> None:
    """Alters a file and keeps its size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    """A link to the very content that was there."""
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


def rewrite(field: str, value: object) -> Callable[[Path], None]:
    """Another value in the manifest."""

    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    return change


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("base.safetensors", flip_last_byte, "base.safetensors: was altered"),
        ("graphs/train.onnx", flip_last_byte, "graphs/train.onnx: was altered"),
        ("graphs/infer.onnx", Path.unlink, "graphs/infer.onnx is missing"),
        ("graphs/infer.onnx", link, "'graphs/infer.onnx' is no file of the manifest"),
        ("graphs/more.onnx", Path.touch, "'graphs/more.onnx' is no file of the manifest"),
        ("manifest.json", Path.unlink, "manifest.json: cannot be read"),
        ("manifest.json", lambda path: path.write_text("{"), "manifest.json: is no JSON"),
        ("manifest.json", rewrite("schema_version", 2), "schema version 2"),
        ("manifest.json", rewrite("base_id", "0" * 64), "its base_id is not that of its files"),
        ("manifest.json", rewrite("graphs", {}), "has no graph 'infer'"),
        ("manifest.json", rewrite("files", {}), "has no file 'base.safetensors'"),
    ],
)
def test_an_altered_bundle_is_refused(
    sample: Path, bundle: Path, tmp_path: Path, name: str, change: Callable[[Path], None], reason: str
) -> None:
    """One line that says why, exit code 1, and nothing is written."""
    copied = shutil.copytree(bundle, tmp_path / "bundle")
    change(copied / name)
    done = node(sample, "main.mjs", copied, tmp_path / "adapter")
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "adapter").exists()


def other_setting(adapter: edgepeft.Adapter) -> edgepeft.Adapter:
    """As if LoRA's scale were another."""
    return edgepeft.Adapter(adapter.tensors, {**adapter.config, "lora_alpha": 16}, adapter.base_id)


def missing_setting(adapter: edgepeft.Adapter) -> edgepeft.Adapter:
    """PEFT would take its own default for it."""
    config = {name: value for name, value in adapter.config.items() if name != "lora_alpha"}
    return edgepeft.Adapter(adapter.tensors, config, adapter.base_id)


def not_finite(adapter: edgepeft.Adapter) -> edgepeft.Adapter:
    """NaN in the last tensor."""
    tensors = {name: array.copy() for name, array in adapter.tensors.items()}
    tensors[list(tensors)[-1]].flat[0] = np.nan
    return edgepeft.Adapter(tensors, adapter.config, adapter.base_id)


def one_less(adapter: edgepeft.Adapter) -> edgepeft.Adapter:
    """The first tensor is gone."""
    return edgepeft.Adapter(dict(list(adapter.tensors.items())[1:]), adapter.config, adapter.base_id)


def transposed(adapter: edgepeft.Adapter) -> edgepeft.Adapter:
    """All axes in reverse order."""
    return edgepeft.Adapter({n: a.T for n, a in adapter.tensors.items()}, adapter.config, adapter.base_id)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda adapter: edgepeft.Adapter(adapter.tensors, adapter.config, "0" * 64),
            "was made for base 0000",
        ),
        (other_setting, "its lora_alpha is 16"),
        (missing_setting, "its lora_alpha is missing"),
        (not_finite, "holds NaN"),
        (one_less, "has 5 tensors, expected 6"),
        (transposed, "expected 'base_model.model.conv1.lora_A.weight' as F32 [4,1,3,3], got F32 [3,3,1,4]"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    sample: Path,
    bundle: Path,
    model: edgepeft.Model,
    tmp_path: Path,
    change: Callable[[edgepeft.Adapter], edgepeft.Adapter],
    reason: str,
) -> None:
    """Another base, setting, shape or set of tensors, and numbers that are none."""
    initial = model.bundle.initial_adapter()
    bound = edgepeft.Adapter(initial.tensors, initial.config, model.bundle.manifest.base_id)
    change(bound).save(tmp_path / "foreign")
    plan = {"adapter": str(tmp_path / "foreign"), "steps": [], "output": str(tmp_path / "adapter")}
    done = node(sample, "driver.mjs", bundle, json.dumps(plan))
    assert done.returncode == 1
    assert reason in done.stderr
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("keep", "added", "reason"),
    [
        (4, b"", "its 4 bytes are fewer than its header"),
        (100, b"", "its 100 bytes are fewer than its header"),
        (-1, b"", "tensor 'base_model.model.head.lora_B.weight' lies at"),
        (None, b"\0", "1 bytes follow the last tensor"),
    ],
    ids=["length", "header", "data", "rest"],
)
def test_a_damaged_adapter_file_is_refused(
    sample: Path,
    bundle: Path,
    model: edgepeft.Model,
    tmp_path: Path,
    keep: int | None,
    added: bytes,
    reason: str,
) -> None:
    """Cut off in its length, header or data, or with bytes after its end."""
    model.bundle.initial_adapter().save(tmp_path / "foreign")
    path = tmp_path / "foreign" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep] + added)
    plan = {"adapter": str(tmp_path / "foreign"), "steps": [], "output": str(tmp_path / "adapter")}
    done = node(sample, "driver.mjs", bundle, json.dumps(plan))
    assert done.returncode == 1
    assert f"adapter_model.safetensors: {reason}" in done.stderr


def test_a_bundle_for_other_data_is_refused(sample: Path, handmade: Path, tmp_path: Path) -> None:
    """It says what the graph takes and what the sample has."""
    done = node(sample, "main.mjs", handmade / "regression", tmp_path / "adapter")
    assert done.returncode == 1
    assert (
        "takes x float32 [batch,3], target float32 [batch,32]; this sample has float32 images" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1


def test_wrong_use_is_told(sample: Path) -> None:
    """No bundle: how to use it, and exit code 2."""
    done = node(sample, "main.mjs")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_nothing_is_told_to_anybody(sample: Path, bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, which would leave a device id in the home folder, is off."""
    home = tmp_path / "home"
    home.mkdir()
    quiet = {"CI", "ORT_DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet} | {
        "HOME": str(home)
    }
    command = [NODE, "main.mjs", bundle, tmp_path / "adapter"]
    done = subprocess.run(command, cwd=sample, env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert not list(home.rglob("*"))


def test_the_lock_file_pins_every_package_and_names_no_registry() -> None:
    """Packages are fixed by their hash; where they come from is the reader's npm's business."""
    packages = json.loads((SAMPLE / "package-lock.json").read_text())["packages"]
    installed = {name: entry for name, entry in packages.items() if name}
    assert "node_modules/onnxruntime-node" in installed
    assert all(entry["integrity"].startswith("sha512-") for entry in installed.values())
    assert not [name for name, entry in installed.items() if "resolved" in entry]
