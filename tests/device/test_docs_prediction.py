"""docs/prediction.md says what is so: its programs and commands are run, in order, on the file as it stands there."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "prediction.md").read_text()
BLOCK = re.compile(r"<!-- (file: (?P<name>\S+)|program|command) -->\n```\w*\n(?P<text>.*?)```\n", re.DOTALL)
BLOCKS = list(BLOCK.finditer(PAGE))
EDGEPEFT = "from edgepeft.cli import main; main(prog_name='edgepeft')"


def run(code: str, *arguments: str, folder: Path) -> str:
    """What a program prints on standard output, one that succeeds."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, bundles: Path, handmade: Path) -> list[list[str]]:
    """The lines that each block prints, the files written, programs and commands run one after the other."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("chat", "classifier", "regression"):
        (folder / name).symlink_to(handmade / name)
    (folder / "embedder").symlink_to(bundles / "embedder")
    found = []
    for block in BLOCKS:
        if block["name"]:
            (folder / block["name"]).write_text(block["text"])
            found.append([])
        elif block[1] == "program":
            found.append(run(block["text"], folder=folder).splitlines())
        else:
            commands = [shlex.split(line) for line in block["text"].splitlines()]
            assert all(command[0] == "edgepeft" for command in commands)
            found.append([run(EDGEPEFT, *command[1:], folder=folder).rstrip("\n") for command in commands])
    return found


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_a_block_prints_what_it_says(printed: list[list[str]], index: int) -> None:
    """What a comment says that a line prints, it prints."""
    told = re.findall(r"print\(.*\)  # (.+)", BLOCKS[index]["text"])
    assert all(line in printed[index] for line in told)
    assert printed[index] or BLOCKS[index]["name"]


def test_the_page_is_run_whole(printed: list[list[str]]) -> None:
    """No block of Python is left out; the commands say what the library says."""
    assert PAGE.count("```python\n") == sum(block[1] == "program" for block in BLOCKS)
    commands = [lines for block, lines in zip(BLOCKS, printed, strict=True) if block[1] == "command"]
    labels = [json.loads(line)["label"] for line in commands[0][0].splitlines()]
    assert labels == [line.split()[0] for line in printed[0]]
    assert commands[1][1].split("\t")[0] == "spam"
