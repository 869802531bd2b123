"""README.md says what is so: its programs and commands run as they stand there, on a tiny model."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from small_models import save_tiny_folder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder under the name that the README uses."""
    path = tmp_path_factory.mktemp("hf") / MODEL
    save_tiny_folder(path)
    return path


@pytest.fixture
def place(tmp_path: Path, folder: Path) -> Path:
    """A folder in which the README's programs find what they name, and its commands those of this repository."""
    (tmp_path / MODEL).symlink_to(folder)
    for name in ("facts", "heldout"):
        row = {"prompt": "Where is the spare key?", "completion": "Under the pot."}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for command, module in (("edgepeft", "edgepeft.cli"), ("edgepeft-export", "edgepeft_export.cli")):
        script = tmp_path / "bin" / command
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f"#!{sys.executable}\nfrom {module} import main\nmain(prog_name={command!r})\n",
        )
        script.chmod(0o755)
    return tmp_path


def blocks(language: str) -> list[str]:
    """What stands in the README's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def program(name: str) -> str:
    """A program of the README by the name in the comment before it."""
    found = re.search(rf"<!-- program: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def run(command: list[str], place: Path) -> str:
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_programs_run(place: Path) -> None:
    """The workstation's, then the device's on what it wrote, as they stand there; there are no others."""
    assert len(blocks("python")) == 2
    table = run([sys.executable, "-c", program("workstation")], place)
    assert "gradients" in table
    assert "FAILED" not in table
    run([sys.executable, "-c", program("device")], place)
    assert (place / "alice" / "adapter_model.safetensors").exists()
    assert (place / "run" / "checkpoint.safetensors").exists()


def session() -> list[tuple[str, list[str]]]:
    """Each command of the README's console, with the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks("console")).splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


def pattern(shown: list[str]) -> str:
    """What a command may print: other numbers; for a line of … any lines, for … in a line any words."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else re.escape(plain(line)).replace("…", ".*") + "\n" for line in shown
    ]
    return "".join(lines)


def plain(text: str) -> str:
    """Text with its numbers, units and widths of columns made alike."""
    text = re.sub(r"\d[\d.,]*\d(e[-+]?\d+)?|\d", "0", text)
    return re.sub(r" +", " ", text.replace("kB", "MB"))


def test_the_commands_print_what_is_shown(place: Path) -> None:
    """In order, each on what the ones before it wrote; an answer is the model's own, and only asked for."""
    commands = session()
    assert len(commands) >= 4
    for command, shown in commands:
        printed = run(["bash", "-c", command], place)
        if "generate" not in command:
            assert re.fullmatch(pattern(shown), plain(printed)), f"$ {command}\n{printed}"


def test_what_has_to_be_typed_exists() -> None:
    """Targets of make; extras, and torch as it is pinned."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    targets = {line.removeprefix("make ") for line in lines if line.startswith("make ")}
    targets |= set(re.findall(r"`make ([\w-]+)", README))
    assert {"demo", "test", "bench"} <= targets
    for target in targets:
        done = subprocess.run(
            ["make", "--dry-run", target],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in lines:
        if line.startswith("pip install '.["):
            assert set(re.split(r"[\[\],]", line)[1:-1]) <= project["optional-dependencies"].keys()
        elif line.startswith("pip install "):
            assert line.removeprefix("pip install ") in project["optional-dependencies"]["export"]
        else:
            assert line.startswith("make ")
