"""What is distributed, and the house rules that machines check: each is seen to refuse what it should."""

import email.message
import email.parser
import email.policy
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKSTATION_ONLY = {"gguf", "onnx", "onnx-ir", "onnxscript", "peft", "torch", "transformers"}


def run(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """A program of this environment, in the repository's folder."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, input=text, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    """What the wheel says of itself."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.BytesParser(policy=email.policy.compat32).parsebytes(wheel.read(name))


def requirements(metadata: email.message.Message, extra: str | None) -> set[str]:
    """Names of the packages that an extra asks for; of those that everybody gets, where it is None."""
    found = set()
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        named = re.search(r"extra == '([\w-]+)'", marker)
        if (named.group(1) if named else None) == extra:
            found.add(re.match(r"[\w.-]+", requirement).group().lower())
    return found


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every tracked module of both packages, their py.typed and the licence; no tests, tools or samples."""
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    commands = {"edgepeft_command.py", "edgepeft_export_command.py"}
    assert {name.split("/")[0] for name in names} == {"edgepeft", "edgepeft_export"} | commands
    source = {
        str(path.relative_to(parent))
        for parent, package in ((ROOT, "edgepeft"), (ROOT / "export", "edgepeft_export"))
        for path in (parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == source | commands
    assert {"edgepeft/py.typed", "edgepeft_export/py.typed"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_both_commands_are_declared(wheel: zipfile.ZipFile) -> None:
    """The commands of the README are there after an installation, and point at what exists."""
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    lines = wheel.read(name).decode().splitlines()
    assert "edgepeft = edgepeft_command:main" in lines
    assert "edgepeft-export = edgepeft_export_command:main" in lines


def test_an_onnx_runtime_comes_with_an_extra(metadata: email.message.Message) -> None:
    """Its two packages overwrite each other, so that neither may come by itself."""
    assert requirements(metadata, "onnxruntime") == {"onnxruntime"}
    assert requirements(metadata, "ort-training") == {"onnxruntime-training-cpu"}
    for extra in (None, "text", "images", "dev"):
        assert not any(name.startswith("onnxruntime") for name in requirements(metadata, extra))


@pytest.mark.parametrize("extra", [None, "text", "images", "onnxruntime"])
def test_a_device_gets_nothing_of_the_workstation(metadata: email.message.Message, extra: str | None) -> None:
    """Neither `pip install edgepeft` nor its extras `text` and `images` ask for torch, onnx or their company."""
    asked = requirements(metadata, extra)
    assert asked, "no requirement was found at all"
    assert not asked & WORKSTATION_ONLY


def test_the_workstation_gets_all_of_it_and_torch_is_pinned(metadata: email.message.Message) -> None:
    """The extra `export` is complete, and names one torch and one onnxscript: private interfaces are used."""
    assert requirements(metadata, "export") == WORKSTATION_ONLY | {"onnxruntime"}
    (torch,) = (line for line in metadata.get_all("Requires-Dist", []) if line.startswith("torch"))
    assert torch.startswith("torch==2.13.0;")
    (onnxscript,) = (line for line in metadata.get_all("Requires-Dist", []) if line.startswith("onnxscript"))
    assert "<0.8" in onnxscript


def test_who_may_have_it_and_on_which_python(metadata: email.message.Message) -> None:
    """The licence by its SPDX name, with its text, and the versions of Python that the classifiers tell."""
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert sorted(metadata["Requires-Python"].split(",")) == ["<3.14", ">=3.11"]
    told = [line for line in metadata.get_all("Classifier") if re.search(r"Python :: 3\.", line)]
    assert [line.rpartition(" ")[2] for line in told] == ["3.11", "3.12", "3.13"]


def test_a_developer_gets_what_the_makefile_runs(metadata: email.message.Message) -> None:
    """The extra `dev` has the tools of `make check` and `make test`, and what builds the wheel."""
    assert {"hatchling", "hypothesis", "mypy", "pytest", "ruff"} <= requirements(metadata, "dev")
    assert not requirements(metadata, "dev") & (WORKSTATION_ONLY | requirements(metadata, None))


#: A private name of a library that is pinned for it, in an import or spelled out.
PRIVATE = re.compile(
    r"\b(?:torch|onnxscript|onnx_ir|onnx|peft|transformers)(?!\.ops)(?:\.\w+)*(?:\._[a-z]| import (?:\w+, )*_[a-z])"
)


def test_decision_4_names_the_files_with_private_names() -> None:
    """All of them, and no other: that is where a new torch or onnxscript is looked at first."""
    package = ROOT / "export" / "edgepeft_export"
    found = {
        str(path.relative_to(package)) for path in package.rglob("*.py") if PRIVATE.search(path.read_text())
    }
    decision = (ROOT / "docs" / "decisions" / "0004-pinned-torch.md").read_text()
    assert found == set(re.findall(r"`([\w/]+\.py)`", decision))


BANNED = ["torch", "onnx", "transformers", "peft", "onnxscript", "onnx_ir", "edgepeft_export"]


def lint_as(name: str, text: str) -> subprocess.CompletedProcess[str]:
    """Ruff's opinion of a text, by the repository's rules, as if it were the file of that name."""
    return run("ruff", "check", "--no-cache", "--select=TID251", f"--stdin-filename={name}", "-", text=text)


@pytest.mark.parametrize("module", BANNED)
@pytest.mark.parametrize(
    "line",
    ["import {}\n", "from {} import something\n", "import {}.part\n", "def f():\n    import {}\n"],
    ids=["import", "from", "submodule", "late"],
)
def test_ruff_bans_the_workstations_modules_on_the_device(module: str, line: str) -> None:
    """However it is written, the import is refused in edgepeft/, with the reason; nowhere else."""
    text = line.format(module)
    refused = lint_as("edgepeft/engines/some_module.py", text)
    assert refused.returncode == 1, refused.stderr
    assert f"TID251 `{module}" in refused.stdout
    assert "the device has no" in refused.stdout or "never the reverse" in refused.stdout
    allowed = lint_as("export/edgepeft_export/some_module.py", text)
    assert allowed.returncode == 0, allowed.stdout


def function(lines: int) -> str:
    """A function whose code has that many lines."""
    return "def f():\n" + "    x = 1\n" * lines


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n" * 499, None),
        ("x = 1\n" * 500, "500 lines, the limit is 500"),
        (function(59), None),
        (function(60), "f has 60 lines, the limit is 60"),
    ],
    ids=["file of 499", "file of 500", "function of 59", "function of 60"],
)
def test_sizes_are_checked(tmp_path: Path, text: str, reason: str | None) -> None:
    """The last size that passes and the first that does not, for files and for functions."""
    path = tmp_path / "some_module.py"
    path.write_text(text)
    command = [sys.executable, "tools/check_sizes.py", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if reason is None else 1), done.stdout + done.stderr
    assert reason is None or reason in done.stdout
