"""docs/guest.md says what is so: its program runs as it stands there, and its files are those that are read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgepeft import board
from edgepeft.board import Battery, Sensors

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "guest.md").read_text()
PROGRAMS = re.findall(r"<!-- program -->\n```python\n(.*?)```\n", PAGE, re.DOTALL)


def test_the_program_runs(tmp_path: Path, handmade: Path) -> None:
    """What a comment says that a line prints, it prints."""
    (program,) = PROGRAMS
    assert PAGE.count("```python\n") == 1
    (tmp_path / "bundle").symlink_to(handmade / "chat")
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"print\(.*\)  # (.+)", program)


def test_the_files_are_those_that_are_read(tmp_path: Path) -> None:
    """Each with what the page has in it."""
    rows = re.findall(r"^\| (`(?:sys|proc)/.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    for places, contents in rows:
        first, *others = re.findall(r"`([^`]+)`", places)
        for place, content in zip(
            [first, *(str(Path(first).with_name(name)) for name in others)],
            re.findall(r"`([^`]+)`", contents),
            strict=True,
        ):
            path = tmp_path / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
    throttling = ("under-voltage", "throttled")
    assert board.sensors(tmp_path) == Sensors(81.0, throttling, Battery(19.0, discharging=True), None)
    assert board.available_memory(tmp_path) == 500_000 * 1024
    assert board.board(tmp_path).model == "Raspberry Pi 4 Model B"
    assert board.is_board(tmp_path)


def test_a_training_takes_what_the_other_page_says() -> None:
    """The table of boards has the predictions of docs/cli.md, in GB, and leaves the system what it says."""
    boards, spare = (0.5, 1, 2, 4, 8), 0.4
    predicted: dict[tuple[str, str, str], float] = {}
    for row in re.findall(
        r"^\| (\S.*?) \| (\d+) \| (\d*) ?\| ([\d,]+) \|", (DOCS / "cli.md").read_text(), re.MULTILINE
    ):
        predicted[row[0], row[1], row[2]] = float(row[3].replace(",", "")) / 1000
    model, compared = "", 0
    for name, rows, length, told, board_gb in re.findall(
        r"^\| (.*?) ?\| (\d+)(?: x (\d+)| images) \| ([\d.]+) GB \| ([\d.]+) GB \|$", PAGE, re.MULTILINE
    ):
        model = name.partition(",")[0] or model
        assert float(board_gb) == min(size for size in boards if size - float(told) >= spare)
        if (model, rows, length) in predicted:
            assert float(told) == pytest.approx(predicted[model, rows, length], abs=0.05)
            compared += 1
    assert compared == 5
