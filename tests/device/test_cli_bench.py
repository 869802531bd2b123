"""`edgepeft bench`: a table to paste, and what it does not say."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_machine import PI_4, hot, throttled, write

import edgepeft
from edgepeft import bench, names
from edgepeft.cli import main
from edgepeft.cli.bench import _step
from edgepeft.engines.sessions import GraphStepper
from edgepeft.memory import Resident


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Raspberry Pi with a meter."""
    folder = write(
        tmp_path / "machine",
        {
            "proc/cpuinfo": PI_4,
            "proc/device-tree/model": "Raspberry Pi 4 | Model B\0",
            "proc/sys/kernel/arch": os.uname().machine,
            "sys/class/hwmon/hwmon0/name": "ina219",
            "sys/class/hwmon/hwmon0/power1_input": 5_300_000,
        },
    )
    hot(folder, 61.5)
    throttled(folder, 0)
    monkeypatch.setattr("edgepeft.board.ROOT", folder)
    return folder


def ran(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def table(text: str) -> dict[str, str]:
    """The cells of the one row, by their titles."""
    title, line, row, *_ = text.splitlines()
    assert re.fullmatch(r"(\|---)+\|", line)
    titles, cells = ([cell.strip() for cell in each.strip("|").split(" | ")] for each in (title, row))
    assert len(titles) == len(cells) == line.count("---")
    return dict(zip(titles, cells, strict=True))


def test_a_table_to_paste(root: Path, bundles: Path) -> None:
    """With the board, the step's median, least and most, the rate, memory, heat and power."""
    del root
    done = ran(bundles / "tiny-llama", "--batch-size", 2, "--length", 500, "--steps", 3, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    cells = table(done.stdout)
    assert cells["machine"] == "Raspberry Pi 4 / Model B"
    assert cells["batch"] == "2 x 128", "no longer than the model takes"
    assert done.stderr == "length 128: the model takes no more\n"
    time = r"\d+\.\d{2,}"
    assert re.fullmatch(rf"{time} \({time}\.\.{time}\)", cells["step, s: median (min..max)"])
    assert float(cells["tokens/s"].replace(",", "")) > 0
    assert int(cells["peak RSS, MB"].replace(",", "")) > 10
    assert (cells["hottest, °C"], cells["W"]) == ("61.5", "5.3")
    about = done.stdout.splitlines()[4]
    assert "LlamaForCausalLM" in about or "llama" in about
    assert about.endswith("threads 1, median of 3 steps")
    assert "slowed down" not in done.stdout


def test_json(root: Path, bundles: Path) -> None:
    """The same numbers, and each step's."""
    throttled(root, 0x4)
    done = ran(bundles / "conv-net", "--steps", 5, "--json")
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert len(facts["seconds"]) == 5
    assert facts["median_seconds"] == sorted(facts["seconds"])[2]
    assert facts["samples_per_second"] == pytest.approx(4 / facts["median_seconds"])
    assert (facts["tokens_per_second"], facts["length"]) == (None, None)
    assert facts["throttling"] == ["throttled"]
    assert (facts["temperature"], facts["watts"], facts["emulated"]) == (61.5, 5.3, False)
    assert facts["expected_memory_bytes"] > 0


def test_a_board_that_slows_down(root: Path, bundles: Path) -> None:
    """Is called so: the time is not that of the board at its best."""
    throttled(root, 0x5)
    done = ran(bundles / "conv-net", "--steps", 1)
    assert "slowed down by the board meanwhile: under-voltage, throttled\n" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.000412, "0.000412"),
        (0.04119, "0.0412"),
        (0.9996, "1.000"),
        (1.234, "1.23"),
        (59.99, "59.99"),
        (361.5, "361.50"),
    ],
)
def test_times_have_one_unit(seconds: float, told: str) -> None:
    """They are compared, from one machine to another."""
    assert _step([seconds, seconds]) == f"{told} ({told}..{told})"


@pytest.mark.parametrize(
    ("until", "told"), [(bench.WARMUP_STEPS, True), (bench.WARMUP_STEPS - 1, False), (99, False)]
)
def test_a_board_that_slows_down_within_a_step(
    root: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch, until: int, *, told: bool
) -> None:
    """It is well again before anybody looks, and keeps that it was not; what it kept from before does not count."""
    real = GraphStepper.step
    calls: list[object] = []

    def step(stepper: GraphStepper, *arguments: Any) -> Any:
        calls.append(stepper)
        throttled(root, 0x50000 if len(calls) > until else 0x40000)
        return real(stepper, *arguments)

    monkeypatch.setattr(GraphStepper, "step", step)
    done = ran(bundles / "conv-net", "--steps", 3)
    assert done.exit_code == 0, done.stderr
    assert ("slowed down by the board meanwhile: under-voltage\n" in done.stdout) is told
    assert "throttled" not in done.stdout


def test_an_emulated_processor(root: Path, bundles: Path) -> None:
    """No time and no rate, and a line that says why."""
    write(root, {"proc/sys/kernel/arch": "another"})
    done = ran(bundles / "tiny-llama", "--steps", 1)
    cells = table(done.stdout)
    assert cells["machine"].endswith(" (emulated)")
    assert (cells["step, s: median (min..max)"], cells["samples/s"]) == ("-", "-")
    assert "tokens/s" not in cells
    assert done.stdout.endswith(
        "emulated: these times say nothing about a board, and are not to be compared with any.\n"
    )
    facts = json.loads(ran(bundles / "tiny-llama", "--steps", 1, "--json").stdout)
    assert facts["emulated"]
    assert [name for name in facts if "second" in name and facts[name] is not None] == []
    assert facts["steps"] == 1


def test_a_batch_that_does_not_fit(root: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused, with one that does; what other tests have the process hold is left out."""
    monkeypatch.setattr("edgepeft.memory.resident", lambda: Resident(0, 0))
    write(root, {"proc/meminfo": "MemAvailable: 120000 kB"})
    done = ran(bundles / "tiny-llama", "--batch-size", 4096)
    assert done.exit_code == 2
    found = re.search(
        r"Error: --batch-size is 4096; expected at most (\d+): more rows of this model", done.stderr
    )
    assert found, done.stderr
    assert 1 <= int(found[1]) < 4096
    write(root, {"proc/meminfo": "MemAvailable: 100 kB"})
    for name, todo in (("tiny-llama", "Lower --length, or end"), ("conv-net", "End")):
        done = ran(bundles / name)
        assert done.exit_code == 1
        assert done.stderr.endswith(f"into the memory that is available. {todo} other programs.\n")


def test_more_threads_than_cores(root: Path, bundles: Path) -> None:
    """Are not used, and that is told in a line; as many as there are, or too many to start, are not told of."""
    write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"})
    done = ran(bundles / "conv-net", "--steps", 1, "--threads", 2)
    assert done.stdout.endswith("threads 1, median of 1 steps\n")
    assert done.stderr == (
        "--threads 2 is more than the physical cores that may be used here, 1: so many are used\n"
    )
    assert ran(bundles / "conv-net", "--steps", 1, "--threads", 1).stderr == ""
    assert (
        ran(bundles / "conv-net", "--threads", 999).stderr == "Error: --threads is 999; expected 1 to 256.\n"
    )


def test_a_length_that_rows_do_not_have(bundles: Path) -> None:
    """Is refused where it was asked for; more than the model takes is measured without a word where it was not."""
    done = ran(bundles / "conv-net", "--length", 128)
    assert done.exit_code == 2
    assert re.match(
        r"Error: --length is for rows that have one; those of \S+ have none\. Leave it out\.\n", done.stderr
    )
    assert ran(bundles / "tiny-llama", "--steps", 1).stderr == ""


def test_ctrl_c_shows_the_steps_so_far(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one counts; the exit code is that of a command that was interrupted."""
    real = bench.board.read_sensors
    calls: list[object] = []

    def interrupted(files: Any) -> Any:
        calls.append(files)
        if len(calls) == until:
            raise KeyboardInterrupt
        return real(files)

    monkeypatch.setattr("edgepeft.bench.board.read_sensors", interrupted)
    until = bench.WARMUP_STEPS + 3
    done = ran(bundles / "conv-net", "--steps", 9)
    assert done.exit_code == 1
    assert table(done.stdout)["batch"] == "4"
    assert done.stdout.splitlines()[4].endswith(", median of 2 steps, then interrupted")
    calls.clear()
    until = bench.WARMUP_STEPS + 1
    done = ran(bundles / "conv-net", "--steps", 9)
    assert (done.exit_code, done.stdout, done.stderr.strip()) == (1, "", "Aborted!")


def test_the_adapter_stays_as_it_is(bundles: Path) -> None:
    """A bench trains a copy, as often as is said."""
    model = edgepeft.load(bundles / "tiny-bert")
    before = {name: value.copy() for name, value in model.adapter.tensors.items()}
    measured = bench.measure(model, batch_size=3, length=7, steps=4)
    assert (len(measured.seconds), measured.samples, measured.tokens) == (4, 3, 21)
    assert all(np.array_equal(before[name], value) for name, value in model.adapter.tensors.items())


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-bert", "conv-net", "embedder", "wide"])
def test_random_rows_are_of_use(bundles: Path, name: str) -> None:
    """Of every kind of bundle: the train graph takes them, and its loss is a number."""
    model = edgepeft.load(bundles / name)
    manifest = model.bundle.manifest
    rows = bench.random_rows(manifest, 3, 5)
    outputs = model.engine.run(
        names.TRAIN, model.collate(rows), model.engine.prepare(dict(model.adapter.tensors))
    )
    assert np.isfinite(outputs["loss"])
    assert outputs["weight"] > 0
