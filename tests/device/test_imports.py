"""Importing edgepeft and opening a bundle touches nothing that it should not."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgepeft

#: What may be opened besides the bundle: Python, its packages, our own source, and what the kernel tells.
PROGRAM = """
import os, sys
bundle, *empty = sys.argv[1:]
opened, reached = [], []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.fsdecode(arguments[0]))
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "urllib.")):
        reached.append(event)

sys.addaudithook(watch)

def check(when):
    assert not reached, (when, reached)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, (when, threads)
    for folder in empty:
        assert os.listdir(folder) == [], (when, folder, os.listdir(folder))

import edgepeft
check("import")
edgepeft.Bundle.open(bundle)
check("open")
model = edgepeft.load(bundle, threads=1)
ones = [[1, 1]]
model.predict({"input_ids": ones, "attention_mask": ones})
check("predict")
for name in ("torch", "onnx", "onnxscript", "transformers", "peft"):
    assert name not in sys.modules, name
ours = os.path.dirname(os.path.dirname(edgepeft.__file__))
folders = (sys.prefix, sys.base_prefix, f"{ours}/edgepeft", "/proc", "/sys")
inside = {name for _, *lists in os.walk(bundle) for names in lists for name in names}  # opened from folder to folder
allowed = {bundle, *inside, "/etc/os-release"}  # onnxruntime looks which Linux this is
outside = {path for path in opened if not path.startswith(tuple(f"{folder}/" for folder in folders))} - allowed
assert not outside, outside
assert inside <= set(opened), "nothing was watched"
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
print("clean")
"""


#: Folders that are empty before and after.
EMPTY = ("HOME", "TMPDIR", "here")


@pytest.fixture
def command(bundles: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program in a home, a folder for temporary files and a working folder that are empty."""
    folders = {name: tmp_path / name for name in EMPTY}
    for folder in folders.values():
        folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    # No compiled files are written: a folder of ours would be opened for writing.
    kept |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    kept |= {name: str(folders[name]) for name in ("HOME", "TMPDIR")}

    def run(*before: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", PROGRAM, str(bundles / "tiny-llama"), *map(str, folders.values())]
        return subprocess.run(
            [*before, *program], capture_output=True, text=True, check=False, env=kept, cwd=folders["here"]
        )

    return run


def test_import_and_open_are_clean(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """From before the import to the first prediction: no torch, no network, no other program, no thread, no file."""
    done = command()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "clean\n"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which sees what native code opens")
def test_native_code_is_clean_too(
    command: Callable[..., subprocess.CompletedProcess[str]], bundles: Path, tmp_path: Path
) -> None:
    """What C and C++ open and connect to, which Python does not hear of."""
    log = tmp_path / "strace.log"
    done = command("strace", "-f", "-qq", "-y", "-o", str(log), "-e", "trace=%file,socket,connect")
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    assert not [call for call in calls if re.search(r" (socket|connect)\(", call)]
    assert sum(" execve(" in call for call in calls) == 1
    changes = r" (mkdir|unlink|rename|link|symlink|mknod|chmod)|O_(WRONLY|RDWR|CREAT)"
    assert not [call for call in calls if re.search(changes, call) and "/dev/" not in call]
    opened = {Path(found[1]) for call in calls if (found := re.search(r" = \d+<(.+)>$", call))}
    assert bundles / "tiny-llama" / "manifest.json" in opened
    here = {path for path in opened if tmp_path in path.parents} - {tmp_path / name for name in EMPTY}
    assert not here  # the three folders themselves are looked into by the program above


def test_the_facade_is_small() -> None:
    """These names, and no others, are what a user learns."""
    assert sorted(edgepeft.__all__) == [
        "Adapter",
        "Bundle",
        "Callback",
        "Classification",
        "EdgepeftError",
        "Guest",
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
