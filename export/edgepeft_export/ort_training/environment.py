"""The environment in which onnxruntime-training runs: it and onnxruntime cannot be in one."""

import os
import subprocess
import sys
import tempfile
import venv
from importlib import metadata
from pathlib import Path

import edgepeft
from edgepeft_export.errors import ExportError

#: The last release; onnx in a version that it works with.
PACKAGES = ("onnxruntime-training-cpu==1.19.2", "onnx==1.16.2")
#: The last CPython that it has wheels for.
_NEWEST_PYTHON = (3, 12)
#: What was installed, in this file of the folder.
_MADE = ".edgepeft"


def default_environment() -> Path:
    """Where the environment is kept, once for all bundles."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgepeft" / "ort-training-1.19.2"


def ensure(folder: Path) -> Path:
    """The environment's Python; the environment is made with pip where there is none, and mended where it is old.

    Raises:
        ExportError: This Python is too new for the release, the folder holds something else, or pip failed; the message
            says why.
    """
    python, made = folder / "bin" / "python", folder / _MADE
    wanted = [*PACKAGES, *_runtime_requirements()]
    if python.exists() and made.exists() and made.read_text() == "\n".join(wanted):
        return python
    if sys.version_info[:2] > _NEWEST_PYTHON:
        raise ExportError(
            "ort-training",
            f"onnxruntime-training 1.19.2 has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}, the "
            "last is for 3.12. Run this with an older Python.",
        )
    if folder.is_dir() and any(folder.iterdir()) and not made.exists():
        raise ExportError(
            "ort-training",
            f"{folder}: is something else, which pip would change. Give a folder that is new or empty.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made.write_text("")  # it is ours from now on, and not ready
        venv.create(folder, with_pip=True, clear=False)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ExportError("ort-training", f"{folder}: no environment can be made there: {error}.") from error
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise ExportError("ort-training", f"pip failed in {folder}: {_last_line(done)}")
    made.write_text("\n".join(wanted))
    return python


def run(python: Path, script: Path, *arguments: Path) -> None:
    """Runs a script there, with this runtime's code in reach, and no other package of this environment.

    Raises:
        ExportError: It failed; the message has its last line.
    """
    with tempfile.TemporaryDirectory() as reach:
        (Path(reach) / "edgepeft").symlink_to(Path(edgepeft.__file__).parent)
        done = subprocess.run(  # noqa: S603 - our own script
            [python, script, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": reach},
        )
    if done.returncode:
        raise ExportError("ort-training", f"onnxruntime-training failed: {_last_line(done)}")


def _runtime_requirements() -> list[str]:
    """What edgepeft itself takes, without the extras; never the other ONNX Runtime."""
    lines = [line for line in metadata.requires("edgepeft") or () if "extra ==" not in line]
    return [line for line in lines if not line.startswith("onnxruntime")]


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}, as where memory is short."
    return lines[-1] if lines else "it said nothing."
