"""A user's program under `mypy --strict`: the public API is typed, as the wheel brings it, `py.typed` and all."""

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import edgepeft

ROOT = Path(__file__).parents[1]
PROGRAM = re.compile(r"<!-- program(?:: \w+)? -->\n```python\n(.*?)```\n", re.DOTALL)

#: Every public name, each with the type that a user would write; `assert_type` refuses what is merely `Any`.
EVERY_NAME = '''
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np
import numpy.typing as npt

import edgepeft
from edgepeft import errors
from edgepeft.data import Dataset

Array = npt.NDArray[Any]


class Watch(edgepeft.Callback):
    """Stops when the loss is low enough."""

    def __init__(self, trainer: edgepeft.Trainer) -> None:
        self.trainer = trainer
        self.result: edgepeft.TrainingResult | None = None

    def on_data(self, train_data: Dataset, eval_data: Dataset | None) -> None:
        print(train_data.name, eval_data and len(eval_data))

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        print(total_steps - first_step)

    def on_step_end(self, step: int, result: edgepeft.StepResult) -> None:
        assert_type(result.loss, float)
        if result.loss < 0.1:
            self.trainer.stop()

    def on_shrink(self, rows: int, expected_bytes: int, limit_bytes: int) -> None:
        print(rows, expected_bytes / limit_bytes)

    def on_pause(self, step: int, reason: str) -> None:
        print(step, reason.upper())

    def on_resume(self, step: int, seconds: float) -> None:
        print(step, seconds)

    def on_evaluate(self, step: int, loss: float) -> None:
        print(step, loss)

    def on_train_end(self, result: edgepeft.TrainingResult) -> None:
        self.result = result

    def close(self) -> None:
        print("closed")


bundle = edgepeft.Bundle.open(Path("bundle"))
assert_type(bundle.initial_adapter(), edgepeft.Adapter)
model = edgepeft.load(bundle, engine="stock", threads=2)
assert_type(model, edgepeft.Model)
assert_type(edgepeft.load("bundle", "alice"), edgepeft.Model)

adapter = edgepeft.Adapter.load("alice").with_labels(["spam", "work"])
assert_type(adapter.labels, tuple[str, ...] | None)
assert_type(adapter.tensors, Mapping[str, Array])
assert_type(adapter.size, int)
adapter.save(Path("bob"))
model.add_adapter("alice", adapter)
model.add_adapter("bob", "bob")
model.add_adapter("carol", Path("carol"))
model.use("alice")
model.use(adapter)
model.delete_adapter("bob")
assert_type(model.adapters, Mapping[str, edgepeft.Adapter])
assert_type(model.adapter, edgepeft.Adapter)
assert_type(model.labels, tuple[str, ...] | None)

ids = np.ones((1, 4), np.int64)
assert_type(model.predict({"input_ids": ids, "attention_mask": ids}), dict[str, Array])
assert_type(model.predict({"x": np.zeros((1, 3), np.float32)}, adapter="alice"), dict[str, Array])
assert_type(model.classify("a text"), Iterator[edgepeft.Classification])
for found in model.classify(["a", "b"], batch_size=4, adapter=adapter):
    assert_type(found.label, str)
    assert_type(found.index, int)
    assert_type(found.probability, float)
    assert_type(found.probabilities, Mapping[str, float])
assert_type(model.regress(Path("rows.csv")), Iterator[edgepeft.Regression])
for number in model.regress({"x": np.zeros((5, 3))}):
    assert_type(number.values, Array)
    assert_type(number.by_label, dict[str, float])
assert_type(model.embed(text for text in ["a", "b"]), Array)
assert_type(model.predict_rows([{"x": [1, 2, 3]}]), Iterator[dict[str, Array]])
assert_type(model.evaluate("rows.jsonl", adapter="alice"), dict[str, float])
assert_type(model.evaluate([{"text": "a", "label": "spam"}], 4), dict[str, float])
messages = [{"role": "user", "content": "hello"}]
assert_type(model.generate(messages, max_new_tokens=4, stop=["."], adapter="alice"), str)
assert_type(model.stream("hello", temperature=0.7, top_k=5, top_p=0.9, repetition_penalty=1.1), Iterator[str])

arguments = edgepeft.TrainingArguments(
    optimizer="sgd", lr_scheduler_type="cosine", learning_rate=1e-3, epochs=3, batch_size=8, max_grad_norm=1.0
)
trainer = edgepeft.Trainer(model, arguments)
watch = Watch(trainer)
result = trainer.fit(
    [{"text": "a"}, {"text": "b"}],
    Path("heldout.jsonl"),
    callbacks=[watch, edgepeft.JsonLinesLog("run.jsonl"), edgepeft.HtmlReport("report.html", trainer)],
    checkpoint_dir="run",
    resume=True,
    guest=edgepeft.Guest(max_temperature=70.5, min_battery=30, nice=5, max_memory=10**9, root="machine"),
)
assert_type(result, edgepeft.TrainingResult)
assert_type(result.paused_seconds, float)
assert_type(result.adapter, edgepeft.Adapter)
assert_type(result.losses, list[float])
assert_type(result.evaluation_losses, list[tuple[int, float]])
assert_type(result.stop_reason, Literal["finished", "max_seconds", "early_stopping", "stopped"])
assert_type(result.seconds_per_step, float)
try:
    trainer.fit("facts.jsonl")
except errors.DataError as error:
    print(error)
except edgepeft.EdgepeftError:
    raise
'''

#: What mypy must refuse, a line each, with the kind of error.
WRONG = {
    'edgepeft.load("bundle", engine="fast")': "arg-type",
    "edgepeft.TrainingArguments(learning_rat=1.0)": "call-arg",
    'edgepeft.TrainingArguments(optimizer="adam")': "arg-type",
    "edgepeft.load(7)": "arg-type",
    'edgepeft.load("bundle").labels = ("a",)': "misc",
    'next(edgepeft.load("bundle").classify("a")).labl': "attr-defined",
    'edgepeft.load("bundle").adapters["a"] = edgepeft.Adapter.load("a")': "index",
}

#: As a user has it; peft has no types, and those of the workstation's other packages take long to read.
SETTINGS = """[mypy]
strict = true
[mypy-peft.*]
ignore_missing_imports = true
[mypy-torch.*,transformers.*,onnx.*,onnx_ir.*,onnxscript.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def python(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which the wheel is installed, and what it depends on is that of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    wheel.extractall(packages)
    (packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def mypy(python: Path, folder: Path, *programs: Path) -> subprocess.CompletedProcess[str]:
    """Mypy's opinion of programs of somebody who has installed edgepeft."""
    settings = folder / "mypy.ini"
    settings.write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--config-file", settings]
    options = ["--cache-dir", folder / "cache", "--no-error-summary", *programs]
    return subprocess.run(
        [*map(str, command + options)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_programs_pass_and_mistakes_do_not(python: Path, tmp_path: Path) -> None:
    """The programs of the README and of docs/, one with every public name; and each wrong line is found."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [program for page in pages for program in PROGRAM.findall(page.read_text())]
    assert len(texts) > 10
    assert [name for name in edgepeft.__all__ if f"edgepeft.{name}" not in EVERY_NAME] == []
    programs = []
    for index, text in enumerate([EVERY_NAME, *texts]):
        programs.append(tmp_path / f"program_{index}.py")
        programs[-1].write_text(text)
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import edgepeft\n" + "".join(f"{line}\n" for line in WRONG))
    passed = mypy(python, tmp_path, *programs)
    assert (passed.returncode, passed.stdout) == (0, ""), passed.stdout + passed.stderr
    refused = mypy(python, tmp_path, wrong)
    found = re.findall(r"wrong\.py:(\d+): error: .*\[([\w-]+)\]", refused.stdout)
    assert found == [(str(line), kind) for line, kind in enumerate(WRONG.values(), 2)], refused.stdout
