"""`edgepeft train` as a guest: what it tells, and the options."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_machine import hot, on_battery
from rich.console import Console

import edgepeft
from edgepeft import board, cli, estimate
from edgepeft.engines.base import StepResult
from edgepeft.engines.choice import choose
from edgepeft.memory import Resident
from edgepeft.progress import TerminalProgress

ROWS = [{"text": text} for text in ("hello there.", "who is it?", "a friend.")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine whose temperature a test sets."""
    return tmp_path / "machine"


@pytest.fixture
def command(
    tmp_path: Path, root: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`edgepeft train` on the board that is made up."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    real = board.find_sensors
    monkeypatch.setattr("edgepeft.guest.board.find_sensors", lambda _: real(root))
    monkeypatch.setattr("edgepeft.guest.board.is_board", lambda _: True)

    def run(*options: object) -> Any:
        fixed = ["train", handmade / "chat", "--data", data, "--output", tmp_path / "alice", "--max-steps", 3]
        return CliRunner().invoke(cli.main, [*map(str, fixed), *map(str, options)])

    return run


def test_the_command_is_a_good_guest(
    command: Callable[..., Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being asked: a line for the pause and one for its end, the reason in the log, the time in the result."""
    hot(root, 81)
    monkeypatch.setattr("edgepeft.guest.time.sleep", lambda _: hot(root, 40))
    monkeypatch.setattr("edgepeft.guest.POLL_SECONDS", 0.01)
    done = command("--log", tmp_path / "log.jsonl", "--json")
    assert done.exit_code == 0, done.stderr
    assert "paused after step 0: too hot: 81.0 °C, at most 80 °C, on again at 75 °C\n" in done.stderr
    assert re.search(r"\non again after step 0, [\d.]+ m?s later\n", done.stderr)
    assert json.loads(done.stdout)["paused_seconds"] > 0
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in told] == ["begin", "pause", "resume", "step", "step", "step", "end"]
    assert told[1]["reason"] == "too hot: 81.0 °C, at most 80 °C, on again at 75 °C"
    assert told[2]["seconds"] == pytest.approx(told[-1]["paused_seconds"])
    hot(root, 81)
    assert "peak memory" in (line := command().stdout)
    assert re.search(r", paused for [\d.]+ m?s\b", line)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-temperature", "nan"], "--max-temperature is nan; expected more than 5"),
        (["--min-battery", "200"], "--min-battery is 200.0; expected at least 0 and at most 100"),
        (["--nice", "20"], "nice is 20; expected at least 0 and at most 19"),
        (["--max-temperature", "0"], "--max-temperature is 0.0; expected more than 5.\n"),
        (["--max-memory", "0"], "--max-memory is 0; expected megabytes, more than 0"),
        (
            ["--max-memory", "1e30"],
            "--max-memory is 1e+30; expected megabytes, more than 0 and at most 1,000,000,000.",
        ),
        (
            ["--max-memory", "inf"],
            "--max-memory is inf; expected megabytes, more than 0 and at most 1,000,000,000.",
        ),
        (["--max-memory", "nan"], "--max-memory is nan; expected megabytes, more than 0"),
    ],
)
def test_options_out_of_range(command: Callable[..., Any], options: list[str], told: str) -> None:
    """Wrong use, in a line."""
    done = command(*options)
    assert done.exit_code == 2
    assert told in done.stderr


def unheeded(done: Any) -> list[str]:
    """The lines that tell of a limit that cannot be kept."""
    assert done.exit_code == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "not heeded" in line]


LIMITS = ("--max-temperature", 60, "--min-battery", 90)


def test_a_limit_that_cannot_be_kept_is_told(command: Callable[..., Any], root: Path) -> None:
    """A line each, where it was asked for; not for one that means never."""
    assert unheeded(command()) == []
    assert unheeded(command(*LIMITS)) == [
        "--max-temperature is not heeded: this machine tells no temperature",
        "--min-battery is not heeded: this machine tells of no battery",
    ]
    assert unheeded(command("--max-temperature", "inf", "--min-battery", 0)) == []
    hot(root, 40)
    on_battery(root, 95)
    assert unheeded(command(*LIMITS)) == []


def test_a_memory_limit_that_the_bundle_cannot_keep(command: Callable[..., Any]) -> None:
    """This one does not tell what a training takes."""
    assert unheeded(command("--max-memory", 5000)) == [
        "--max-memory is not heeded: the bundle does not tell what a training takes"
    ]
    assert unheeded(command()) == []


def test_the_command_shrinks_and_refuses(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the options' names."""
    monkeypatch.setattr("edgepeft.memory.resident", lambda: Resident(0, 0))
    bundle, data = bundles / "tiny-llama", tmp_path / "rows"
    data.mkdir()
    for name in ("input_ids", "attention_mask", "labels"):
        np.save(data / f"{name}.npy", np.ones((8, 100), np.int64))
    manifest = edgepeft.Bundle.open(bundle).manifest
    engine = choose(manifest).engine
    needed = {n: estimate.training_memory(manifest, n, 100, engine=engine) for n in (1, 4, 8)}

    def run(megabytes: float) -> Any:
        fixed = ["train", bundle, "--data", data, "--output", tmp_path / "alice", "--max-steps", 1]
        options = ["--batch-size", 8, "--max-memory", megabytes, "--log", tmp_path / "log.jsonl", "--json"]
        return CliRunner().invoke(cli.main, [*map(str, fixed), *map(str, options)])

    assert needed[1] is not None
    assert needed[4] is not None
    done = run(needed[4].total / 1e6 + 0.001)
    assert done.exit_code == 0, done.stderr
    assert re.search(
        r"the batch would take [\d.]+ MB of memory, the limit is [\d.]+ MB: it is run 4 rows at a time, for the same update\n",
        done.stderr,
    )
    shrink = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])
    assert (shrink["event"], shrink["rows"]) == ("shrink", 4)
    assert json.loads(done.stdout)["rows_at_once"] == 4
    assert "not heeded" not in done.stderr
    done = run(needed[1].total / 1e6 - 1)
    assert done.exit_code == 1
    assert re.search(
        r"; --max-memory is [\d.]+ MB\. Lower --max-length, or raise --max-memory\.\n", done.stderr
    )


def test_a_terminal_is_told_above_its_bar() -> None:
    """And the pause is not in the pace."""
    stream, clock = io.StringIO(), iter([0.0, 0.0, 10.0, 112.0, 122.0])
    shown = TerminalProgress(Console(file=stream, force_terminal=True, width=100), clock=lambda: next(clock))
    shown.on_train_begin(10, 1)
    shown.on_shrink(2, 3_000_000, 2_000_000)
    shown.on_step_end(1, StepResult(1.0, 1.0, 1.0, 0.1))
    shown.on_pause(1, "too hot")
    shown.on_resume(1, 92.0)
    shown.on_step_end(2, StepResult(1.0, 1.0, 1.0, 0.1))
    shown.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "would take 3.00 MB of memory, the limit is 2.00 MB: it is run 2 rows at a time" in text
    assert "paused after step 1: too hot" in text
    assert "on again after step 1, 1 min 32 s later" in text
    assert "10.0 s/step" in text.splitlines()[-1]
