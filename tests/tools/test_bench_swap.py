"""The benchmark of swaps: its help, and a line of times."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/bench_swap.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help() -> None:
    """What it does, and what it takes."""
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "How long a hot swap between two adapters takes" in done.stdout
    assert run().returncode == 2


def test_swaps(bundles: Path) -> None:
    """One line."""
    done = run(bundles / "tiny-llama")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ swaps: median [\d.]+ ms \([\d.]+\.\.[\d.]+\)\n", done.stdout)
