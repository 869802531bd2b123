"""The reader of the sample of a small board: what goes wrong with its folders, and how it ends."""

import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import fake_machine
import pytest
from pi_reader import line, reader

import edgepeft
from samples.raspberry_pi import watch
from samples.raspberry_pi.folders import Watched, gather
from samples.raspberry_pi.view import View
from samples.raspberry_pi.watch import MAX_MEMORY, Reader


@pytest.fixture
def folder(board: Path, tmp_path: Path) -> Path:
    """A watched folder, with one correction."""
    target = tmp_path / "reader"
    shutil.copytree(board / "start", target)
    (target / "corrected" / "two").mkdir(parents=True)
    shutil.copy(shot(board), target / "corrected" / "two")
    return target


def shot(board: Path) -> Path:
    """An image."""
    return next((board / "shots" / "two").glob("*.png"))


def _reader(board: Path, folder: Path, epochs: int = 1) -> Reader:
    watched = Watched(folder)
    model = edgepeft.load(board / "bundle")
    watched.make(model.labels or ())
    return Reader(model, watched, View("a test"), 1, epochs=epochs)


def _looks(found: Reader) -> None:
    """Some, each with the training that it starts."""
    for _ in range(3):
        found.look()
        if found._training is not None:
            found._training.join()


def test_what_is_learned_from_is_copied(folder: Path, tmp_path: Path) -> None:
    """A system that protects links lets nobody link what somebody else has put there."""
    count = gather(Watched(folder), tmp_path / "all")
    found = list((tmp_path / "all").glob("*/*.png"))
    assert len(found) == count > 1
    assert {path.stat().st_nlink for path in found} == {1}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training(board: Path, folder: Path, end: signal.Signals) -> None:
    """In order; its corrections wait for the next start."""
    with reader(sys.executable, board, folder, "--corrections=1", "--epochs=100000", end=end) as run:
        line(run, "learning from")
    assert (folder / "corrected" / "two" / shot(board).name).exists()
    assert not (folder / "adapter").exists()
    assert not (folder / ".learning").exists()


def test_a_training_that_runs_ends_after_its_step(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when it is done."""
    running = threading.Event()
    step = watch.Learning.on_step_end

    def told(self: watch.Learning, number: int, result: edgepeft.StepResult) -> None:
        step(self, number, result)
        running.set()

    monkeypatch.setattr(watch.Learning, "on_step_end", told)
    found = _reader(board, folder, epochs=200)
    found.look()
    assert running.wait(60)
    found.stop()
    found.join()
    assert not (folder / "adapter").exists()
    assert (folder / "corrected" / "two" / shot(board).name).exists()


def test_a_signal_takes_no_lock(board: Path, folder: Path) -> None:
    """Its handler may interrupt whoever holds it."""
    found = _reader(board, folder)
    with found._view._lock:
        handler = threading.Thread(target=found.stop, daemon=True)
        handler.start()
        handler.join(10)
        assert not handler.is_alive()
    assert found.stopping


def test_an_error_of_the_disk_while_it_learns(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is told once, and the reader goes on."""

    def full(_: Watched, target: Path) -> int:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(watch, "gather", full)
    found = _reader(board, folder)
    for _ in range(3):
        found.look()
        found.join()
    assert capsys.readouterr().out.count("could not learn: [Errno 28] No space left on device") == 1
    shutil.copy(shot(board), folder / "inbox")
    for _ in range(2):
        found.look()
    assert re.search(rf"{shot(board).name}: [a-z]+, \d+%", capsys.readouterr().out)


def test_a_folder_that_cannot_be_looked_into(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is told once, and again when it happens again."""
    found = _reader(board, folder)
    (folder / "corrected" / "two" / shot(board).name).unlink()

    def gone(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(folder))

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(watch, "by_class", gone)
            found.look()
            found.look()
        found.look()
    assert capsys.readouterr().out.count(f"could not look into {folder}: [Errno 13]") == 2


def test_a_correction_that_cannot_be_moved_is_learned_once(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would start one training after another; so would one beside it that cannot be learned from."""

    def refused(path: Path, _: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(watch, "move", refused)
    found = _reader(board, folder)
    _looks(found)
    told = capsys.readouterr().out
    assert told.count("could not make") == told.count("learning from") == 1
    (folder / "corrected" / "eleven").mkdir()
    shutil.copy(shot(board), folder / "corrected" / "eleven")
    _looks(found)
    assert capsys.readouterr().out.count("could not learn") == 1


@pytest.mark.parametrize(
    ("available_kb", "most"), [(MAX_MEMORY // 1024 + 1, MAX_MEMORY), (MAX_MEMORY // 1024 - 1, None)]
)
def test_it_takes_no_more_than_its_unit_allows(tmp_path: Path, available_kb: int, most: int | None) -> None:
    """By itself, where the kernel does not hold it to that; less, where there is less."""
    root = fake_machine.write(tmp_path, {"proc/meminfo": f"MemAvailable: {available_kb} kB"})
    assert watch.guest(root).max_memory == most
