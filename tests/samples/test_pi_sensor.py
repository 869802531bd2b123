"""What stands in for a camera in the sample of a small board, when something is amiss."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from samples.raspberry_pi import sensor
from samples.raspberry_pi.folders import Watched

ROOT = Path(sensor.__file__).parents[2]


def _start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "samples.raspberry_pi.sensor", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """One image."""
    folder = tmp_path / "shots"
    (folder / "two").mkdir(parents=True)
    (folder / "two" / "a.png").touch()
    return folder


@pytest.mark.parametrize("name", ["nonexist", "."])
def test_shots_that_are_none(tmp_path: Path, name: str) -> None:
    """One line."""
    run = _start(tmp_path / name, tmp_path)
    output, errors = run.communicate(timeout=60)
    assert (run.returncode, output) == (1, "")
    told = f"Error: {tmp_path / name}: expected images in folders that are named after their classes.\n"
    assert errors == told


def test_it_waits_for_the_reader(
    shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For its folder, and for each image, and says so once."""
    watched, looks = Watched(tmp_path / "reader"), 0

    def pause(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            watched.make(())
        if looks == 6:
            shutil.copytree(shots, watched.read)

    monkeypatch.setattr(sensor, "_PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(sensor.time, "sleep", pause)
    found = [("one", shots / "two" / "a.png")]
    sensor.put(found, watched)
    assert sensor.correct(found, watched) == 1
    assert (watched.corrected / "one" / "a.png").exists()
    assert re.findall(r"waiting for (.*): is the reader running\?", capsys.readouterr().out) == [
        f"the folder {watched.inbox}",
        "a.png to be read",
    ]


def test_ctrl_c_ends_it(shots: Path, tmp_path: Path) -> None:
    """Without a traceback."""
    watched = Watched(tmp_path / "reader")
    watched.make(())
    run = _start(shots, watched.root)
    while not (watched.inbox / "a.png").exists():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert (*run.communicate(timeout=60), run.returncode) == ("", "", 130)
