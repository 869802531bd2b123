"""`edgepeft doctor`: what is said of a machine, and of a bundle on it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_machine import PI_4, hot, on_battery, throttled, write

import edgepeft
from edgepeft import estimate, ort_package
from edgepeft.cli import main
from edgepeft.engines.choice import choose
from edgepeft.errors import EngineError
from edgepeft.limits import KiB
from edgepeft.memory import Resident


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that tells nothing yet."""
    folder = tmp_path / "machine"
    monkeypatch.setattr("edgepeft.board.ROOT", folder)
    return folder


def raspberry_pi(root: Path) -> None:
    """A Raspberry Pi 4 that is hot, on a weak supply and on a battery."""
    memory = "MemTotal:  3884360 kB\nMemAvailable:  3000000 kB"
    tree = {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0", "proc/meminfo": memory}
    cpus = {f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": cpu for cpu in range(4)}
    write(root, {"proc/cpuinfo": PI_4, "proc/sys/kernel/arch": os.uname().machine} | tree | cpus)
    hot(root, 71.3)
    throttled(root, 0x50005)
    on_battery(root, 42)


def answered(*arguments: object) -> Any:
    done = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def test_a_raspberry_pi(root: Path) -> None:
    """All that it tells, as a drawing."""
    raspberry_pi(root)
    text = answered()
    for words in (
        "Raspberry Pi 4 Model B Rev 1.4",
        "of 4 usable",
        "asimd, no dotprod, no i8mm, no bf16",
        "memory  3,978 MB, available 3,072 MB",
        "processor  Cortex-A72, ",
        "temperature  71.3 °C; a training pauses above 80 °C",
        "slowed down  under-voltage, throttled",
        "battery  42 %, discharging",
        "power  not told",
        f"onnxruntime  {ort_package.installed().name} {ort_package.installed().version}",
    ):
        assert words in text
    assert "emulated" not in text
    facts = answered("--json")
    assert (facts["model"], facts["physical_cores"]) == ("Raspberry Pi 4 Model B Rev 1.4", 4)
    assert facts["throttling"] == ["under-voltage", "throttled"]
    assert facts["battery"] == {"percent": 42.0, "discharging": True}
    assert "fits" not in facts


def test_a_machine_that_tells_nothing(root: Path, bundles: Path) -> None:
    """Is asked all the same; nothing is made up."""
    root.mkdir()
    text = answered(bundles / "tiny-llama")
    assert text.startswith("this machine\n")
    assert text.count("not told") >= 5
    assert "cannot be told" in text
    facts = answered(bundles / "tiny-llama", "--json")
    assert (facts["memory_bytes"], facts["temperature"], facts["throttling"], facts["fits"]) == (None,) * 4


def test_a_processor_is_named_once(root: Path) -> None:
    """A machine without a board's name is not called by its processor's."""
    write(root, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\n"})
    assert answered().count("Some CPU") == 1


def test_an_emulated_machine(root: Path) -> None:
    """Is called one."""
    write(root, {"proc/sys/kernel/arch": "another"})
    assert "emulated: its times say nothing" in answered()
    assert answered("--json")["emulated"] is True


def test_what_a_bundle_takes(root: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate, and what of it fits into what is available."""
    bundle = bundles / "tiny-llama"
    manifest = edgepeft.Bundle.open(bundle).manifest
    engine = choose(manifest).engine
    needed = {n: estimate.training_memory(manifest, n, 64, engine=engine) for n in (1, 2, 4, 8)}
    assert needed[4] is not None
    held = 50_000 * KiB
    monkeypatch.setattr("edgepeft.memory.resident", lambda: Resident(held, held))
    write(root, {"proc/meminfo": f"MemAvailable: {int((needed[4].total - held) / KiB) + 64} kB"})
    facts = answered(bundle, "--json")
    rows = facts["training_memory"]
    assert [(row["batch_size"], row["length"]) for row in rows] == [
        (b, n) for b in (1, 2, 4, 8) for n in (64, 128)
    ]
    for row in rows:
        expected = estimate.training_memory(manifest, row["batch_size"], row["length"], engine=engine)
        assert expected is not None
        assert row["bytes"] == expected.total
    assert facts["fits"] is True
    assert [row["fits"] for row in rows if row["length"] == 64] == [True, True, True, False]
    text = answered(bundle)
    assert f"({bundle}): fits" in text
    assert " too much" in text
    write(root, {"proc/meminfo": "MemAvailable: 1 kB"})
    assert answered(bundle, "--json")["fits"] is False
    assert "does not fit" in answered(bundle)


def test_a_table_is_held_against_one_look_at_the_machine(
    root: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is available changes from one look to the next, and a look takes longer than an estimate."""
    raspberry_pi(root)
    calls: list[object] = []
    monkeypatch.setattr("edgepeft.cli.doctor.memory_limit", lambda *given: calls.append(given))
    rows = answered(bundles / "tiny-llama", "--json")["training_memory"]
    assert (len(rows), len(calls)) == (8, 1)


def test_rows_without_a_length(root: Path, bundles: Path) -> None:
    """One column."""
    raspberry_pi(root)
    rows = answered(bundles / "conv-net", "--json")["training_memory"]
    assert [(row["batch_size"], row["length"]) for row in rows] == [
        (1, None),
        (2, None),
        (4, None),
        (8, None),
    ]


def test_a_bundle_that_says_nothing_about_memory(root: Path, handmade: Path) -> None:
    """Cannot be told."""
    raspberry_pi(root)
    assert "cannot be told" in answered(handmade / "chat")
    assert answered(handmade / "chat", "--json")["training_memory"] == []


def test_a_bundle_that_is_too_large_is_not_read(root: Path, bundles: Path, tmp_path: Path) -> None:
    """The manifest alone says it: the weights are not even there."""
    raspberry_pi(root)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_bytes((bundles / "tiny-llama" / "manifest.json").read_bytes())
    assert answered(bundle, "--json")["fits"] is True
    done = CliRunner().invoke(main, ["doctor", str(tmp_path)])
    assert done.exit_code == 1
    assert "Error: " in done.stderr


def test_without_an_onnxruntime(root: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what a doctor is for: no engine, and what to do."""
    raspberry_pi(root)

    def none() -> ort_package.Package:
        raise EngineError("no ONNX Runtime is installed. Install one.")

    monkeypatch.setattr("edgepeft.ort_package.installed", none)
    for facts in (answered("--json"), answered(bundles / "tiny-llama", "--json")):
        assert (facts["engine"], facts["engine_reason"]) == (
            None,
            "no ONNX Runtime is installed. Install one.",
        )
    assert "none can run: no ONNX Runtime is installed. Install one." in answered()
