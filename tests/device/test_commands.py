"""The two programs as they are started: what happens before their packages are imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edgepeft_command

ROOT = Path(__file__).parents[2]

#: Sends Ctrl-C in the middle of the imports.
INTERRUPTED = """
import signal, sys

INTERRUPT_AT = "edgepeft.bundle", "onnx_ir"

class Finder:
    def find_spec(name, *_):
        if name in INTERRUPT_AT:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""


def start(module: str, before: str = "", *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program by the module that its script calls."""
    code = f"{before}\nimport sys, {module}\nsys.exit({module}.main())"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'export'}"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_program_starts() -> None:
    """The script's call reaches the command."""
    done = start("edgepeft_command", "", "--help")
    assert done.returncode == 0
    assert "Adapts a pretrained model" in done.stdout


@pytest.mark.parametrize("module", ["edgepeft", "edgepeft_command"])
def test_the_program_starts_as_a_module(module: str) -> None:
    """Where a Python is at hand, and not the script; wrong use shows how it was started."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'export'}"}
    command = [sys.executable, "-m", module]
    done = subprocess.run(
        [*command, "--version"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "version" in done.stdout
    done = subprocess.run([*command, "--no"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert module in done.stderr


@pytest.mark.parametrize("module", ["edgepeft_command", "edgepeft_export_command"])
def test_ctrl_c_during_the_imports(module: str) -> None:
    """The program ends as a shell expects it, and says nothing."""
    done = start(module, INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("module", ["edgepeft_command", "edgepeft_export_command"])
def test_ctrl_c_before_the_imports(module: str) -> None:
    """While the little is imported that it takes to answer Ctrl-C."""
    done = start(module, f'{INTERRUPTED}\nsys.modules.pop("contextlib", None)\nINTERRUPT_AT = ["contextlib"]')
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


#: Has pip know no package.
NO_PACKAGE = """
from importlib import metadata

def version(name):
    raise metadata.PackageNotFoundError(name)

metadata.version = version
"""


def test_no_onnx_runtime() -> None:
    """The runtime brings none by itself; one line says which extras do."""
    done = start("edgepeft_command", NO_PACKAGE, "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: no ONNX Runtime is installed. Install edgepeft[onnxruntime] or edgepeft[ort-training].\n"
    )


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """As `nohup` and a shell's background have it."""
    done = start(
        "edgepeft_command", f"import signal; signal.signal(2, signal.SIG_IGN)\n{INTERRUPTED}", "--help"
    )
    assert done.returncode == 0


def test_ctrl_c_is_an_exception_again_after_the_imports() -> None:
    """A command that runs is interrupted as before."""
    before = signal.getsignal(signal.SIGINT)
    with edgepeft_command.quiet_ends():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler


def test_the_exporter_where_its_libraries_are_missing() -> None:
    """A device has the command too: one line says that it is for the workstation, and which extra it takes."""
    done = start("edgepeft_export_command", "import sys; sys.modules['onnx_ir'] = None", "--help")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: edgepeft-export needs onnx_ir, which is not installed. It is for the workstation: "
        "pip install 'edgepeft[export]'.\n"
    )
