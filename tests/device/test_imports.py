"""Importing edgepeft and opening a bundle touches nothing that it should not."""

import os
import subprocess
import sys
from pathlib import Path

import edgepeft

PROGRAM = """
import os, sys
bundle, home = sys.argv[1:]
import edgepeft
import onnxruntime, numpy
opened, sockets = [], []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.fsdecode(arguments[0]))
    if event.startswith("socket."):
        sockets.append(event)

assert len(os.listdir("/proc/self/task")) == 1, "importing onnxruntime started a thread"
sys.addaudithook(watch)
edgepeft.Bundle.open(bundle)
for name in ("torch", "onnx", "transformers", "peft", "onnxscript"):
    assert name not in sys.modules, name
outside = [
    path for path in opened
    if not os.path.abspath(path).startswith(bundle) and "/" in path and not path.endswith((".py", ".pyc", ".so"))
]
assert not outside, outside
assert any(path.endswith("manifest.json") for path in opened), opened
assert not sockets, sockets
assert len(os.listdir("/proc/self/task")) == 1
model = edgepeft.load(bundle, threads=1)
assert not sockets, sockets
assert os.listdir(home) == [], os.listdir(home)
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
print("clean")
"""


def test_import_and_open_are_clean(bundles: Path, tmp_path: Path) -> None:
    """No torch, no network, no file outside the bundle, no telemetry thread or file, where CI is not set."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(bundles / "tiny-llama"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("clean")


def test_the_facade_is_small() -> None:
    """These names, and no others, are what a user learns."""
    assert sorted(edgepeft.__all__) == [
        "Adapter",
        "Bundle",
        "Callback",
        "Classification",
        "EdgepeftError",
        "HtmlReport",
        "JsonLinesLog",
        "Model",
        "Regression",
        "StepResult",
        "Trainer",
        "TrainingArguments",
        "TrainingResult",
        "load",
    ]
    assert all(hasattr(edgepeft, name) for name in edgepeft.__all__)
