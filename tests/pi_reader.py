"""Runs the sample of the Raspberry Pi as its user meets it: images are put in, wrong ones are moved, it gets better."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from samples.raspberry_pi import sensor
from samples.raspberry_pi.folders import Watched, by_class

#: Python for aarch64, with what was installed there; `make test-arm64` sets it.
ARM64_PYTHON = "EDGEPEFT_ARM64_PYTHON"
#: Corrections that start a training.
ENOUGH = 16
#: Seconds after which a program that a test waits for in vain is ended.
_PATIENCE_SECONDS = 1200


@contextmanager
def reader(
    python: str,
    board: Path,
    folder: Path,
    *options: object,
    end: signal.Signals = signal.SIGTERM,
    user: Sequence[str] = (),
) -> Iterator["subprocess.Popen[str]"]:
    """The program, from the folder that goes to a board; it must end in order when it is told to.

    Args:
        python: Runs it.
        board: The folder.
        folder: What it watches.
        options: Its own.
        end: Tells it to end.
        user: A command that runs it as somebody else.
    """
    command = [
        *user,
        python,
        "-u",
        "-m",
        "samples.raspberry_pi.watch",
        board / "bundle",
        folder,
        *map(str, options),
    ]
    dropped = "PYTHONPATH" if python == os.environ.get(ARM64_PYTHON) else ""
    environment = {name: value for name, value in os.environ.items() if name != dropped}
    run = subprocess.Popen(
        command,
        cwd=board,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    patience = threading.Timer(_PATIENCE_SECONDS, run.kill)
    patience.start()
    try:
        yield run
        assert run.poll() is None
        run.send_signal(end)
        assert run.stdout is not None
        rest = run.stdout.read()
        assert run.wait() == 0, rest
        assert rest.endswith("ended\n"), rest
    finally:
        patience.cancel()
        run.kill()
        run.communicate()


def line(run: "subprocess.Popen[str]", pattern: str) -> re.Match[str]:
    """The next line that a pattern is in."""
    found = re.search(pattern, lines(run, pattern).splitlines()[-1])
    assert found is not None
    return found


def lines(run: "subprocess.Popen[str]", pattern: str) -> str:
    """What is told up to the next line that a pattern is in, with that."""
    assert run.stdout is not None
    told = ""
    while True:
        text = run.stdout.readline()
        assert text, f"ended before {pattern!r}:\n{told}"
        told += text
        if re.search(pattern, text):
            return told


def score(run: "subprocess.Popen[str]") -> float:
    """The next score that it tells, in per cent."""
    return float(line(run, r"([0-9.]+) % of the held-out images are read rightly")[1])


def misread(watched: Watched, shots: list[tuple[str, Path]]) -> int:
    """Puts images in, five at a time, and moves the wrong ones, until there are enough to learn from."""
    wrong = 0
    for start in range(0, len(shots), 5):
        if wrong >= ENOUGH:
            return wrong
        sensor.put(shots[start : start + 5], watched)
        wrong += sensor.correct(shots[start : start + 5], watched)
    return wrong


def get_better(python: str, board: Path, folder: Path, *options: object) -> tuple[float, float]:
    """The scores before and after one training."""
    shutil.copytree(board / "start", folder)
    watched = Watched(folder)
    shots = list(by_class(board / "shots"))[::6]
    with reader(python, board, folder, f"--corrections={ENOUGH}", *options) as run:
        before = score(run)
        wrong = misread(watched, shots)
        assert wrong >= ENOUGH
        assert int(line(run, r"learning from \d+ images, (\d+) of them corrections")[1]) >= ENOUGH
        after = score(run)
        assert watched.adapter.is_dir()
        # What was learned from is kept, and learned from again.
        assert not list(by_class(watched.corrected))
        assert sum(path.name.startswith("corrections-") for _, path in by_class(watched.examples)) >= ENOUGH
    return before, after


def idle_share(run: "subprocess.Popen[str]", seconds: float) -> float:
    """Share of one core that a program takes, by the kernel's count."""

    def ticks() -> int:
        fields = Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    began, before = time.monotonic(), ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
