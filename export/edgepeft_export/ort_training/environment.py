"""The environment in which onnxruntime-training runs: it and onnxruntime cannot be in one."""

import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import edgepeft
from edgepeft_export.errors import ExportError

#: The last release; onnx in a version that it works with.
PACKAGES = ("onnxruntime-training-cpu==1.19.2", "onnx==1.16.2")
#: The last CPython that it has wheels for.
_NEWEST_PYTHON = (3, 12)
_READY = ".edgepeft-ready"


def default_environment() -> Path:
    """Where the environment is kept, once for all bundles."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgepeft" / "ort-training-1.19.2"


def ensure(folder: Path) -> Path:
    """The environment's Python; the environment is made with pip where there is none.

    Raises:
        ExportError: This Python is too new for the release, or pip failed; the message says why.
    """
    python = folder / "bin" / "python"
    if (folder / _READY).exists():
        return python
    if sys.version_info[:2] > _NEWEST_PYTHON:
        raise ExportError(
            "ort-training",
            f"onnxruntime-training 1.19.2 has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}, the "
            "last is for 3.12. Run this with an older Python.",
        )
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, *PACKAGES, *_runtime_requirements()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise ExportError("ort-training", f"pip failed in {folder}: {_last_line(done.stderr)}")
    (folder / _READY).touch()
    return python


def run(python: Path, script: Path, *arguments: Path) -> None:
    """Runs a script there, with this runtime's code in reach.

    Raises:
        ExportError: It failed; the message has its last line.
    """
    code = str(Path(edgepeft.__file__).parents[1])
    done = subprocess.run(  # noqa: S603 - our own script
        [python, script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": code},
    )
    if done.returncode:
        raise ExportError("ort-training", f"onnxruntime-training failed: {_last_line(done.stderr)}")


def _runtime_requirements() -> list[str]:
    """What edgepeft itself takes, without the extras."""
    return [line for line in metadata.requires("edgepeft") or () if "extra ==" not in line]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing."
