"""The benchmark's arithmetic, its table, and peers: programs of others that it runs in turn with ours."""

import argparse
import json
import math
import os
import shlex
import sys
from pathlib import Path

import pytest
from remote_engine import PYTHON

from tools import bench_step

ROUNDS = [
    {"seconds": [1.0, 3.0], "peak_rss_mb": 100.0},
    {"seconds": [2.0, 2.0], "peak_rss_mb": 300.0},
    {"seconds": [9.0], "peak_rss_mb": 200.0},
]


def test_the_summary_is_of_all_steps() -> None:
    """Median and spread over the steps of all rounds, memory over the rounds; the rest follows."""
    assert bench_step.summary(ROUNDS, limit=0.5, tokens=256) == {
        "median_s": 2.0,
        "min_s": 1.0,
        "max_s": 9.0,
        "tokens_per_s": 128.0,
        "peak_rss_mb": 200.0,
        "times_limit": 4.0,
    }


def test_the_table_compares_with_pytorch() -> None:
    """Ratios of time and memory to SDPA's come last; without it there are none."""
    base = bench_step.summary(ROUNDS, 0.5, 256)
    half = base | {"median_s": 1.0, "peak_rss_mb": 50.0}
    lines = bench_step.table({"ours": half, bench_step.BASELINE: base}).splitlines()
    assert [line.split()[0] for line in lines] == ["engine", "ours", "pytorch-sdpa"]
    assert lines[1].split()[-2:] == ["0.50", "0.25"]
    assert lines[2].split()[-2:] == ["1.00", "1.00"]
    assert "1.000 (1.000..9.000)" in lines[1]
    alone = bench_step.table({"ours": half}).splitlines()[1]
    assert all(math.isnan(float(ratio)) for ratio in alone.split()[-2:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine=./run --steps 3", ("mine", ["./run", "--steps", "3"])),
        ("a b='two words' --x=1", ("a b", ["two words", "--x=1"])),
    ],
)
def test_a_peer_is_a_name_and_a_command(text: str, expected: tuple[str, list[str]]) -> None:
    """The first equals sign divides them, and the command is split as a shell would."""
    assert bench_step.peer(text) == expected


@pytest.mark.parametrize("text", ["mine", "=run", "mine=", "mine= "])
def test_a_peer_that_is_none(text: str) -> None:
    """Wrong use, told before anything runs."""
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=COMMAND"):
        bench_step.peer(text)


def printing(text: str) -> list[str]:
    """A program that prints a text."""
    return [sys.executable, "-c", f"print({text!r})"]


def test_a_peer_says_it_with_its_last_line() -> None:
    """What it prints before is its own business."""
    line = json.dumps({"seconds": [1], "peak_rss_mb": 7, "more": "ignored"})
    told = bench_step.run("peer", printing(f"warming up\n{line}"))
    assert told["more"] == "ignored"
    assert bench_step.steps_of("peer", told) == {"seconds": [1.0], "peak_rss_mb": 7.0}


@pytest.mark.parametrize(
    "text", ["", "done", "[1, 2]", '{"seconds": [1]}', '{"seconds": 1, "peak_rss_mb": 2}']
)
def test_a_peer_that_says_something_else(text: str) -> None:
    """Ends the benchmark with its name and what was expected."""
    with pytest.raises(SystemExit, match=r"peer (printed|gave) .*; expected .*(JSON|seconds)"):
        bench_step.steps_of("peer", bench_step.run("peer", printing(text)))


def test_a_peer_that_fails() -> None:
    """Ends the benchmark with its name and its own words."""
    with pytest.raises(SystemExit, match=r"(?s)peer failed:.*no luck"):
        bench_step.run("peer", [sys.executable, "-c", "raise SystemExit('no luck')"])


def test_a_run_with_a_peer(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real steps of a small bundle in turn with a peer's, two rounds, as the command line asks; PyTorch left out."""
    monkeypatch.setattr(bench_step, "_PYTORCH", ())
    peer = shlex.join(printing('{"seconds": [0.5, 1.5], "peak_rss_mb": 7}'))
    options = {
        "bundle": bundles / "tiny-llama",
        "batch": 1,
        "length": 8,
        "threads": 1,
        "steps": 2,
        "rounds": 2,
        "peer": f"mine={peer}",
        "json": tmp_path / "result.json",
    }
    if PYTHON in os.environ:
        options["ort-training"] = os.environ[PYTHON]
    monkeypatch.setattr(
        sys, "argv", ["bench_step.py", *(f"--{name}={value}" for name, value in options.items())]
    )
    bench_step.main()
    result = json.loads((tmp_path / "result.json").read_text())
    engines = ["edgepeft-stock", *(["ort-training"] if PYTHON in os.environ else []), "mine"]
    assert list(result["engines"]) == engines
    assert [len(each["seconds"]) for each in result["rounds"]["edgepeft-stock"]] == [2, 2]
    assert result["engines"]["edgepeft-stock"]["median_s"] > 0
    assert result["engines"]["edgepeft-stock"]["peak_rss_mb"] > 10
    assert result["engines"]["mine"]["median_s"] == 1.0
    assert result["limit_s"] > 0
    told = capsys.readouterr().out
    assert "round 2: mine 1.000 s, 7 MB" in told
    assert "x limit" in told
