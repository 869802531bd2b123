"""Adding engine ort-training to a finished bundle: older graphs, operators, environment, and the whole flow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from foreign_files import snapshot
from onnx import TensorProto, helper
from other_engine import ENVIRONMENT

import edgepeft
from edgepeft import names
from edgepeft.manifest import MONOMIALS
from edgepeft.text import Text
from edgepeft_export import memory, ort_training
from edgepeft_export.cli import main
from edgepeft_export.errors import ExportError
from edgepeft_export.ort_training import add_ort_training, comparison, differentiable, environment, older
from edgepeft_export.verify import relative_error

needs_environment = pytest.mark.skipif(
    ENVIRONMENT not in os.environ, reason=f"{ENVIRONMENT} names no environment; make test does"
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 8)).astype(np.float32)
TABLE = RNG.standard_normal((2, 4, 4)).astype(np.float32)
CHANNELS = {name: RNG.uniform(0.5, 2, 3).astype(np.float32) for name in ("scale", "bias", "mean", "variance")}
LAST = {name: RNG.standard_normal(8).astype(np.float32) for name in ("weight", "bias")}

#: Operators that came, or changed, after opset 18: the node's type, its inputs, its attributes.
NEWER = {
    "rms": ("RMSNormalization", {"x": X, "weight": LAST["weight"]}, {"axis": -1, "epsilon": 1e-6}),
    "rotary": ("RotaryEmbedding", {"x": X, "cos": TABLE, "sin": TABLE + 1}, {}),
    "gelu": ("Gelu", {"x": X}, {}),
    "gelu-tanh": ("Gelu", {"x": X}, {"approximate": "tanh"}),
    "layer": ("LayerNormalization", {"x": X, **LAST}, {"axis": -1, "epsilon": 1e-6}),
    "batch": ("BatchNormalization", {"x": X, **CHANNELS}, {"epsilon": 1e-3}),
    "cast": ("Cast", {"x": X}, {"to": TensorProto.FLOAT, "saturate": 1}),
}


def model(op_type: str, inputs: dict[str, np.ndarray], attributes: dict[str, object]) -> bytes:
    """A model of one node, of opset 23."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(v.shape)) for n, v in inputs.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(inputs["x"].shape))
    node = helper.make_node(op_type, list(inputs), ["y"], **attributes)
    graph = helper.make_graph([node], "g", ports, [output])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    content: bytes = made.SerializeToString()
    return content


def answer(content: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = ort.InferenceSession(content).run(["y"], inputs)[0]
    return found


@pytest.mark.parametrize("name", NEWER)
def test_an_older_form_computes_the_same(name: str) -> None:
    """To float32's rounding, and it is of opset 18."""
    op_type, inputs, attributes = NEWER[name]
    content = model(op_type, inputs, attributes)
    old = older.infer_form(content)
    read = onnx.ModelProto.FromString(old)
    assert {o.domain: o.version for o in read.opset_import}[""] == 18
    assert read.ir_version == 9
    assert op_type == "Cast" or not any(
        node.op_type == op_type and node.domain == "" and len(node.output) == 1 for node in read.graph.node
    )
    assert relative_error(answer(old, inputs), answer(content, inputs)) < 1e-6


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("rms", {"axis": 2}, "RMSNormalization over another axis than the last"),
        ("rotary", {"interleaved": 1}, "RotaryEmbedding with positions, interleaved or of a part"),
        ("batch", {"training_mode": 1}, "BatchNormalization in training"),
    ],
)
def test_an_operator_without_an_older_form(name: str, change: dict[str, object], words: str) -> None:
    """Is named, with what about it is unknown."""
    op_type, inputs, attributes = NEWER[name]
    with pytest.raises(ExportError, match=words):
        older.infer_form(model(op_type, inputs, attributes | change))


def test_what_has_no_rule_is_refused() -> None:
    """A newer operator that nobody wrote out is told by the checker, not found on a device."""
    swish = helper.make_node("Gelu", ["x"], ["y"], approximate="none")
    content = model("Gelu", {"x": X}, {})
    read = onnx.ModelProto.FromString(content)
    read.graph.node[0].CopyFrom(swish)
    read.graph.node[0].op_type = "Swish"
    with pytest.raises(ExportError, match=r"no form of opset 18: .*Swish"):
        older.infer_form(read.SerializeToString())


def trained(*op_types: str) -> ir.Model:
    """Loss = sum of the operators, one after the other, of the adapter's tensor; "idle" reaches no loss."""
    nodes, last = [], "used"
    for index, op_type in enumerate(op_types):
        nodes.append(helper.make_node(op_type, [last], [f"v{index}"]))
        last = f"v{index}"
    nodes.append(helper.make_node("Shape", ["idle"], ["shape"]))
    nodes.append(helper.make_node("ReduceSum", [last], ["loss"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "g",
        [],
        [
            helper.make_tensor_value_info("loss", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor(name, TensorProto.FLOAT, [2], [1, 2]) for name in ("used", "idle")],
    )
    return ir.serde.deserialize_model(helper.make_model(graph))


def test_operators_without_a_gradient_are_named() -> None:
    """All of them at once, and only those that the adapter is trained through."""
    differentiable.check(trained("Tanh", "Exp"), ["used"])
    with pytest.raises(
        ExportError, match="has no gradient for Elu, Softsign, which this model trains through"
    ):
        differentiable.check(trained("Elu", "Tanh", "Softsign"), ["used"])
    differentiable.check(trained("Tanh"), ["used"])


def test_a_tensor_that_changes_nothing_is_named() -> None:
    """Its shape alone is no way to the loss."""
    with pytest.raises(ExportError, match="the adapter tensor 'idle' does not change the loss"):
        differentiable.check(trained("Tanh"), ["used", "idle"])


def test_a_python_that_is_too_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The release's wheels end with 3.12."""
    monkeypatch.setattr(environment.sys, "version_info", (3, 13, 1))
    with pytest.raises(ExportError, match=r"has no wheel for Python 3\.13"):
        environment.ensure(tmp_path / "environment")


def test_pip_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its last line is told; the next call tries again."""

    def fails(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "looking\nERROR: No matching distribution\n\n")

    monkeypatch.setattr(environment.venv, "create", lambda folder, **_: Path(folder).mkdir(exist_ok=True))
    monkeypatch.setattr(environment.subprocess, "run", fails)
    for _ in range(2):
        with pytest.raises(ExportError, match=r"pip failed in .*: ERROR: No matching distribution"):
            environment.ensure(tmp_path / "environment")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    """No environment of somebody else is changed by pip."""
    (tmp_path / "pyvenv.cfg").write_text("home = elsewhere")
    with pytest.raises(ExportError, match=r"is something else, which pip would change\. Give a folder"):
        environment.ensure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pyvenv.cfg"]


def test_a_place_that_can_have_no_environment(tmp_path: Path) -> None:
    """One line, with the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"no environment can be made there: .*Not a directory"):
        environment.ensure(tmp_path / "file" / "environment")


def test_an_environment_of_another_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it lacks is installed; a second time there is nothing to do."""
    commands: list[list[str]] = []

    def installs(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    def make(folder: Path, **_: object) -> None:
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environment.venv, "create", make)
    monkeypatch.setattr(environment.subprocess, "run", installs)
    for _ in range(2):
        assert environment.ensure(tmp_path) == tmp_path / "bin" / "python"
    assert len(commands) == 1
    assert "onnxruntime-training-cpu==1.19.2" in commands[0]
    assert not any(word.startswith("onnxruntime>") for word in commands[0])
    monkeypatch.setattr(environment, "PACKAGES", (*environment.PACKAGES, "further"))
    environment.ensure(tmp_path)
    assert "further" in commands[1]


def test_a_script_sees_the_runtime_and_nothing_else(tmp_path: Path) -> None:
    """The workstation's own packages, an onnxruntime among them, are out of reach."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, pathlib\n"
        "(reach,) = os.environ['PYTHONPATH'].split(os.pathsep)\n"
        "pathlib.Path(sys.argv[1]).write_text(repr(sorted(os.listdir(reach))))\n"
    )
    environment.run(Path(sys.executable), script, tmp_path / "told")
    assert (tmp_path / "told").read_text() == "['edgepeft']"


def test_a_script_that_was_killed(tmp_path: Path) -> None:
    """By the system, where memory is short: the signal is told."""
    script = tmp_path / "script.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(ExportError, match="ended by signal 9"):
        environment.run(Path(sys.executable), script)


def test_where_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the user's cache, by the release."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.default_environment() == tmp_path / "edgepeft" / "ort-training-1.19.2"


@pytest.fixture
def bare(bundles: Path, tmp_path: Path) -> Path:
    """A bundle as it is exported, for engine stock only."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundles / "conv-net", folder)
    shutil.rmtree(folder / "ort-training", ignore_errors=True)
    path = folder / names.MANIFEST
    content = json.loads(path.read_text())
    content["ort_training"] = None
    content["files"] = {
        name: entry for name, entry in content["files"].items() if not name.startswith("ort-training/")
    }
    path.write_text(json.dumps(content))
    return folder


@needs_environment
def test_the_engine_is_added_in_place(bare: Path) -> None:
    """The base and its id stay, weights are stored once, and a second time gives the same files."""
    before = edgepeft.Bundle.open(bare).manifest
    base = (bare / names.BASE).stat().st_ino
    command = ["ort-training", str(bare), "--environment", os.environ[ENVIRONMENT]]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {row["what"].split(",")[0] for row in rows} == {
        "train: 6 gradients",
        "train: loss",
        "evaluate: loss",
        "evaluate: logits",
        "infer: logits",
    }
    assert all(row["error"] <= row["limit"] == 1e-4 for row in rows)
    added = edgepeft.Bundle.open(bare)
    assert added.manifest.base_id == before.base_id
    assert (bare / names.BASE).stat().st_ino == base
    new = added.manifest.files.keys() - before.files.keys()
    assert {name.split("/")[0] for name in new} == {"ort-training"}
    assert sum(added.manifest.files[name].size for name in new) < 100_000
    text = CliRunner().invoke(main, command)
    assert text.exit_code == 0, text.output
    assert "6 gradients" in text.stdout
    assert "compare (5/5)" in text.stderr
    assert edgepeft.Bundle.open(bare).manifest.files.keys() == added.manifest.files.keys()


def test_the_batches_of_a_model_of_text_are_text(handmade: Path) -> None:
    """Tokens that no text has make some models magnify rounding; a class is drawn among those that there are."""
    chat, classifier = (edgepeft.Bundle.open(handmade / name) for name in ("chat", "classifier"))
    batch = comparison.random_batch(chat, 3, 50, np.random.default_rng(0))
    assert {name: value.shape for name, value in batch.items()} == dict.fromkeys(batch, (3, 50))
    assert batch["attention_mask"].all()
    assert np.array_equal(batch["labels"], batch["input_ids"])
    text = Text(chat)
    assert text.decode(batch["input_ids"][0].tolist()) in 2 * text.decode(text.encode(comparison._TEXT))
    batch = comparison.random_batch(classifier, 40, 6, np.random.default_rng(0))
    assert set(batch["labels"]) == set(range(classifier.manifest.classes or 0))


@needs_environment
@pytest.mark.parametrize("name", ["tiny-llama", "conv-net"])
def test_sizes_of_the_training_model_go_on_to_larger_batches(bundles: Path, name: str) -> None:
    """As those of the stock engine's graph do; the manifest's polynomial is near the peak."""
    bundle = edgepeft.Bundle.open(bundles / name)
    training = bundle.asset("ort-training/train.onnx")
    python = environment.ensure(Path(os.environ[ENVIRONMENT]))
    rows, length = 5, 40
    found = memory.coefficients(ort_training.tensor_sizes(bundle, training, memory.POINTS, python))
    real = ort_training.tensor_sizes(bundle, training, [(rows, length)], python)
    sizes = {name: float(size) for name, (size,) in real.items()}
    foretold = {
        name: sum(c * rows**i * length**j for c, (i, j) in zip(terms, memory._POWERS, strict=True))
        for name, terms in found.items()
    }
    assert foretold == pytest.approx(sizes, abs=0.5)
    peak = memory.peak_bytes(ir.serde.deserialize_model(onnx.ModelProto.FromString(training)).graph, sizes)
    assert bundle.manifest.ort_training is not None
    assert bundle.manifest.ort_training.memory is not None
    said = sum(
        value * MONOMIALS[term](rows, length) for term, value in bundle.manifest.ort_training.memory.items()
    )
    assert said == pytest.approx(peak, rel=0.12)


@needs_environment
def test_a_bundle_behind_a_link(bare: Path, tmp_path: Path) -> None:
    """The bundle itself is changed, with the rights that it had; the link stays one."""
    bare.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(bare)
    add_ort_training(link, os.environ[ENVIRONMENT])
    assert link.is_symlink()
    assert edgepeft.Bundle.open(bare).manifest.ort_training is not None
    assert bare.stat().st_mode & 0o777 == 0o700


@needs_environment
def test_gradients_that_differ_are_refused(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is as it was, and the message has the table."""
    before = snapshot(bare)
    monkeypatch.setattr(comparison, "MAX_ERROR", -1.0)
    with pytest.raises(ExportError, match=r"differs from the stock engine:\n(.*\n)*.*FAILED"):
        add_ort_training(bare, os.environ[ENVIRONMENT])
    assert snapshot(bare) == before


def test_a_model_that_cannot_be_differentiated_there(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before an environment is made; the bundle is as it was."""
    before = snapshot(bare)
    monkeypatch.setattr(differentiable, "DIFFERENTIABLE", differentiable.DIFFERENTIABLE - {"Gemm"})
    monkeypatch.setattr(ort_training.environment, "ensure", lambda _: pytest.fail("too late"))
    done = CliRunner().invoke(main, ["ort-training", str(bare)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(
        "Error: ort-training: onnxruntime-training 1.19.2 has no gradient for Gemm"
    )
    assert snapshot(bare) == before
