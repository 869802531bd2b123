"""The reader of the sample of a small board: what goes wrong with its folders, and how it ends."""

import dataclasses
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import fake_machine
import pytest
from pi_reader import line, reader
from PIL import Image

import edgepeft
from edgepeft.memory import Resident
from samples.raspberry_pi import inbox, watch
from samples.raspberry_pi.folders import Watched, by_class, gather
from samples.raspberry_pi.view import View
from samples.raspberry_pi.watch import MAX_MEMORY, RETRY_SECONDS, Reader


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process held nothing: it has run other tests, and the reader's memory is small."""
    monkeypatch.setattr("edgepeft.memory.resident", lambda: Resident(0, 0))


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
    for _ in range(4):
        found.look()
        if found._training is not None:
            found._training.join()


def test_what_is_learned_from_is_copied(folder: Path, tmp_path: Path) -> None:
    """A system that protects links lets nobody link what somebody else has put there."""
    watched = Watched(folder)
    files = [
        (path, name) for place in (watched.examples, watched.corrected) for name, path in by_class(place)
    ]
    gone = (folder / "corrected" / "two" / "gone.png", "two")
    assert gather([*files, gone], tmp_path / "all") == len(files)
    found = list((tmp_path / "all").glob("*/*.png"))
    assert len(found) == len(files) > 1
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

    def full(_: object, target: Path) -> int:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(watch, "gather", full)
    found = _reader(board, folder)
    _looks(found)
    why = f"could not learn: {folder / '.learning'}: No space left on device. It tries again in 5 minutes, or"
    assert capsys.readouterr().out.count(why) == 1
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
            patch.setattr(inbox, "by_class", gone)
            found.look()
            found.look()
        found.look()
    assert capsys.readouterr().out.count(f"could not look into {folder}: {folder}: Permission denied") == 2


def test_a_correction_that_cannot_be_moved_is_learned_once(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would start one training after another."""

    def refused(path: Path, _: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(watch, "move", refused)
    found = _reader(board, folder)
    _looks(found)
    told = capsys.readouterr().out
    assert told.count("could not make") == told.count("learning from") == 1


def _refusing(*_: object) -> int:
    raise PermissionError(13, "Permission denied", "there")


def test_a_correction_that_stays_is_learned_from_again(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the next, since each training begins anew; and a failure beside it is told once."""
    move = watch.move

    def refused(path: Path, place: Path) -> Path:
        return _refusing() if path.parent.name == "two" else move(path, place)

    monkeypatch.setattr(watch, "move", refused)
    found = _reader(board, folder)
    _looks(found)
    shutil.copy(shot(board), folder / "corrected" / "seven")
    with monkeypatch.context() as patch:
        patch.setattr(watch, "gather", _refusing)
        _looks(found)
    told = capsys.readouterr().out
    assert (told.count("1 of them corrections"), told.count("could not learn")) == (1, 1)
    found._retry = 0.0
    _looks(found)
    told = capsys.readouterr().out
    assert told.count("2 of them corrections") == told.count("learning from") == 1
    assert "could not make" not in told


def test_a_passing_failure_is_tried_again(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a while, and not at each look."""
    found = _reader(board, folder)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "gather", _refusing)
        _looks(found)
    assert (
        capsys.readouterr().out.count("could not learn: there: Permission denied. It tries again in 5") == 1
    )
    _looks(found)
    assert "learn" not in capsys.readouterr().out
    found._retry -= RETRY_SECONDS
    _looks(found)
    assert "learned in" in capsys.readouterr().out


def test_what_reads_worse_is_not_used(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one in use stays, its score is not told anew, and the corrections are kept for the next training."""
    found = _reader(board, folder)
    monkeypatch.setattr(found, "_scores", lambda *names: [50.0, 49.5][: len(names)])
    before = found.model.adapter
    found.score()
    _looks(found)
    told = capsys.readouterr().out
    assert "that reads 49.5 % of the held-out images rightly, and what is in use 50.0 %: it stays" in told
    assert told.count("are read rightly") == 1
    assert found.model.adapter is before
    assert not (folder / "adapter").exists()
    assert (folder / "examples" / "two" / shot(board).name).exists()


@pytest.mark.parametrize("score", [50.0, None])
def test_what_reads_as_well_is_used(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, score: float | None
) -> None:
    """And so is everything without held-out images."""
    found = _reader(board, folder)
    before = found.model.adapter
    monkeypatch.setattr(found, "_scores", lambda *names: [] if score is None else [score] * len(names))
    _looks(found)
    assert found.model.adapter is not before
    assert (folder / "adapter").is_dir()


def test_scores_are_as_evaluate_measures_them(board: Path, folder: Path) -> None:
    """Under the adapter that is asked for; classes may be numbers; what cannot be used is left out."""
    found = _reader(board, folder)
    (folder / "held_out" / "two").rename(folder / "held_out" / "2")
    ones = {name: 0 * value + 1 for name, value in found.model.adapter.tensors.items()}
    found.model.add_adapter("other", edgepeft.Adapter(ones, found.model.adapter.config))
    measured = [
        100 * found.model.evaluate(folder / "held_out", adapter=name)["accuracy"] for name in (None, "other")
    ]
    (folder / "held_out" / "one" / "bad.png").write_text("note")
    shutil.copytree(folder / "held_out" / "one", folder / "held_out" / "One")
    assert found._scores(None, "other") == pytest.approx(measured)
    assert measured[0] != measured[1]


def test_held_out_images_that_cannot_be_used(
    board: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Are told once each; neither a start nor a training is ended by them."""
    (folder / "held_out" / "one" / "bad.png").write_text("note")
    shutil.copytree(folder / "held_out" / "two", folder / "held_out" / "Two")
    (folder / "examples" / "one" / "bad.png").write_text("note")
    found = _reader(board, folder)
    found.score()
    _looks(found)
    told = capsys.readouterr().out
    assert "could not" not in told
    assert told.count("learned in") == 1
    for path, why in {
        folder / "held_out" / "one" / "bad.png": "is no image that can be read",
        folder / "held_out" / "Two": "is no class, and is passed over; the model knows zero,",
        folder / "examples" / "one" / "bad.png": "is no image that can be read",
    }.items():
        assert told.count(f"{path}: {why}") == 1


def test_a_score_that_cannot_be_measured(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ends nothing; and nothing is kept, or said to be, that was not compared."""
    found = _reader(board, folder)
    monkeypatch.setattr(found, "_scores", _refusing)
    found.score()
    _looks(found)
    told = capsys.readouterr().out
    assert "could not measure: there: Permission denied\n" in told
    assert "could not learn: there: Permission denied. It tries again" in told
    assert "learned in" not in told
    assert not (folder / "adapter").exists()


def test_a_measurement_ends_when_the_program_does(board: Path, folder: Path) -> None:
    """It may take long; nothing is told of half of it."""
    found = _reader(board, folder)
    found.stop()
    found.score()
    assert found._view.state.scores == []


def test_folders_that_are_deleted_are_made_again(
    board: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The inbox, and all of it."""
    found = _reader(board, folder)
    shutil.rmtree(folder / "inbox")
    found.look()
    assert (folder / "inbox").is_dir()
    assert capsys.readouterr().out == ""
    shutil.rmtree(folder)
    found.look()
    assert (folder / "corrected" / "two").is_dir()
    assert f"{folder} is new" in capsys.readouterr().out
    shutil.copy(shot(board), folder / "inbox")
    _looks(found)
    assert f"{shot(board).name}: " in capsys.readouterr().out


def test_a_folder_whose_place_is_gone(board: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a disk that was taken out: it is told once, and the reader goes on."""
    place = folder.parent / "disk"
    place.mkdir()
    found = _reader(board, place / "reader")
    place.rename(folder.parent / "elsewhere")
    _looks(found)
    root = place / "reader"
    assert capsys.readouterr().out == f"could not look into {root}: {root}: No such file or directory\n"


@pytest.mark.parametrize(
    ("available_kb", "most"), [(MAX_MEMORY // 1024 + 1, MAX_MEMORY), (MAX_MEMORY // 1024 - 1, None)]
)
def test_it_takes_no_more_than_its_unit_allows(tmp_path: Path, available_kb: int, most: int | None) -> None:
    """By itself, where the kernel does not hold it to that; less, where there is less."""
    root = fake_machine.write(tmp_path, {"proc/meminfo": f"MemAvailable: {available_kb} kB"})
    assert watch.guest(root).max_memory == most


def test_a_large_image_is_refused_before_it_is_decoded(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would take more memory than the service has, and again at each start."""
    monkeypatch.setattr(inbox, "SETTLED_SECONDS", 0.0)
    found = _reader(board, folder)
    Image.new("L", (5000, 4001)).save(folder / "inbox" / "large.png")
    Image.new("L", (5000, 4000)).save(folder / "inbox" / "enough.png")
    for _ in range(3):
        list(found._inbox.look())
    told = capsys.readouterr().out
    assert "large.png: has 20 million pixels, and at most 20 fit. Save it smaller." in told
    assert (folder / "unreadable" / "large.png").exists()
    assert list((folder / "read").glob("*/enough.png"))


def test_a_folder_that_may_not_be_listed(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is passed over, and told of where it is a class's; others are learned from."""
    real = os.scandir

    def scandir(path: Path | int) -> object:
        if not isinstance(path, int) and Path(path).name in ("trash", "three"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    for place in ("corrected", "held_out", "examples"):
        (folder / place / "trash").mkdir()
    monkeypatch.setattr("samples.raspberry_pi.folders.os.scandir", scandir)
    _looks(_reader(board, folder))
    told = capsys.readouterr().out
    assert told.count("learned in") == 1
    for place in ("corrected", "held_out", "examples"):
        assert told.count(f"{folder / place / 'three'}: may not be listed, and is passed over.") == 1
        assert told.count(f"{folder / place / 'trash'}: is no class") == 1


def test_an_error_that_nobody_thought_of(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ends the training, and starts no other at each look."""

    def gather(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(watch, "gather", gather)
    _looks(_reader(board, folder))
    assert capsys.readouterr().out.count("could not learn") == 1


def test_what_another_bundle_learned(board: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is put aside, also a second time, and the reader reads as it was delivered."""
    for number in ("adapter", "adapter-2"):
        found = _reader(board, folder)
        dataclasses.replace(found.model.adapter, base_id="0" * 64).save(folder / "adapter")
        found.use_learned()
        assert f"It is in {folder / 'unused' / number} now." in capsys.readouterr().out
        assert not (folder / "adapter").exists()
    kept = dataclasses.replace(found.model.adapter)
    kept.save(folder / "adapter")
    found.use_learned()
    assert (folder / "adapter").is_dir()


def test_a_name_that_comes_again(board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction that could not be moved is gone, and another has its name: it counts."""

    def refused(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path), None, str(target))

    found = _reader(board, folder)
    with monkeypatch.context() as within:
        within.setattr(watch, "move", refused)
        _looks(found)
    (stuck,) = found._stuck
    stuck.unlink()
    found.look()
    shutil.copy(shot(board), stuck)
    _looks(found)
    assert not stuck.exists()


def test_classes_that_cannot_name_a_folder(board: Path, folder: Path) -> None:
    """Are refused at the start."""
    for label in ("n/a", ".dark", "../out"):
        model = edgepeft.load(board / "bundle")
        model.use(model.adapter.with_labels([label]))
        with pytest.raises(
            edgepeft.EdgepeftError, match=re.escape(f"its class {label!r} cannot name a folder")
        ):
            Reader(model, Watched(folder), View("a test"), 1)


def test_names_that_no_text_has_and_long_ones(
    board: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that cannot be written as it is, is written all the same; a name may be as long as the system lets it."""
    for old in (folder / "corrected" / "two").iterdir():
        old.rename(old.with_name("x" * 244 + ".png"))
    (folder / "inbox").mkdir()
    shutil.copy(shot(board), os.fsencode(folder / "inbox") + b"/caf\xe9.png")
    (folder / "corrected" / "nine").touch()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    with reader(sys.executable, board, folder, "--corrections=1", "--epochs=1") as run:
        line(run, r"^caf\\udce9.png: ")
        line(run, "learned in")
