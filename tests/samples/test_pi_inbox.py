"""The sample of a small board: files that are half copied, that are no images, that cannot be moved."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepeft import Classification, EdgepeftError
from samples.raspberry_pi import inbox
from samples.raspberry_pi.folders import Watched
from samples.raspberry_pi.inbox import SETTLED_SECONDS, Inbox

WHOLE = "an image"


class Desk:
    """An inbox with a clock that a test moves on, and what it read and told."""

    def __init__(self, root: Path) -> None:
        self.watched = Watched(root)
        self.watched.make(())
        self.now = 1000.0
        self.read: list[str] = []
        self.told: list[str] = []
        self.inbox = Inbox(self.watched, self._classify, self.told.append, lambda: self.now)

    def put(self, name: str, content: str) -> Path:
        path = self.watched.inbox / name
        path.write_text(content)
        return path

    def looks(self, seconds: int) -> list[str]:
        """Names of what was read, by a look a second."""
        names = []
        for _ in range(seconds):
            names += [path.name for path in self.inbox.look()]
            self.now += 1
        return names

    def _classify(self, path: Path) -> Classification:
        self.read.append(path.name)
        if path.read_text() != WHOLE:
            raise EdgepeftError(f"{path}: is no image.")
        return Classification("two", 2, 0.75, {"two": 0.75})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An empty one."""
    return Desk(tmp_path)


def test_an_image_is_read_once_it_has_not_changed_between_two_looks(desk: Desk) -> None:
    """It is moved, told and counted."""
    desk.put("a.png", WHOLE)
    assert desk.looks(1) == []
    assert desk.looks(1) == ["a.png"]
    assert (desk.watched.read / "two" / "a.png").read_text() == WHOLE
    assert desk.told == ["a.png: two, 75%"]
    assert desk.looks(3) == []


def test_an_image_that_grows_is_left_alone(desk: Desk) -> None:
    """As long as it is another at each look."""
    for length in range(1, len(WHOLE) + 1):
        desk.put("a.png", WHOLE[:length])
        assert desk.looks(1) == []
    assert desk.read == []
    assert desk.looks(1) == ["a.png"]


def test_a_copy_that_stalls_is_waited_for(desk: Desk) -> None:
    """It is tried once while it stands still, and not each second; the rest comes, and it is read."""
    path = desk.put("a.png", WHOLE[:4])
    assert desk.looks(int(SETTLED_SECONDS)) == []
    assert (desk.read, desk.told) == (["a.png"], [])
    path.write_text(WHOLE)
    assert desk.looks(2) == ["a.png"]
    assert desk.told == ["a.png: two, 75%"]


def test_what_stays_no_image_is_put_aside(desk: Desk) -> None:
    """When it has not changed for a while, and is told once."""
    desk.put("a.png", "note")
    desk.looks(int(SETTLED_SECONDS))
    assert (desk.watched.inbox / "a.png").exists()
    desk.looks(2)
    assert (desk.watched.unreadable / "a.png").exists()
    assert desk.read == ["a.png"] * 2
    assert desk.told == [f"a.png: is no image. It is in {desk.watched.unreadable} now."]


@pytest.mark.parametrize("written", [0, 4_000_000_000])
def test_the_clock_of_a_camera_is_not_heeded(desk: Desk, written: int) -> None:
    """A file that was written in 1970 or will be in 2096 waits as long as others."""
    os.utime(desk.put("a.png", "note"), (written, written))
    desk.looks(int(SETTLED_SECONDS))
    assert (desk.watched.inbox / "a.png").exists()
    desk.looks(2)
    assert (desk.watched.unreadable / "a.png").exists()


def _refusing(refused: list[OSError]) -> Callable[[Path, Path], Path]:
    """In place of `move`: fails while there is an error left."""
    move = inbox.move

    def moved(path: Path, folder: Path) -> Path:
        if refused:
            raise refused[0]
        return move(path, folder)

    return moved


@pytest.mark.parametrize(("content", "folder"), [(WHOLE, "read/two"), ("note", "unreadable")])
def test_what_cannot_be_moved_is_told_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, content: str, folder: str
) -> None:
    """It is not read again; another error is told, too; once it can be moved, it is."""
    refused: list[OSError] = [PermissionError(13, "Permission denied")]
    monkeypatch.setattr(inbox, "move", _refusing(refused))
    path = desk.put("a.png", content)
    desk.looks(int(SETTLED_SECONDS) + 5)
    tries = len(desk.read)
    there = desk.watched.root / folder
    assert desk.told == [
        f"could not move {path} to {there}: Permission denied; it is tried again until that is mended"
    ]
    refused[:] = [OSError(28, "No space left on device")]
    desk.looks(5)
    assert len(desk.told) == 2
    assert "No space left" in desk.told[1]
    refused.clear()
    desk.looks(1)
    assert (there / "a.png").exists()
    assert len(desk.read) == tries


def test_what_cannot_be_moved_and_changes_is_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And told again; so is one of that name that went and came again."""
    monkeypatch.setattr(inbox, "move", _refusing([PermissionError(13, "Permission denied")]))
    path = desk.put("a.png", WHOLE)
    desk.looks(4)
    path.unlink()
    desk.looks(1)
    desk.put("a.png", WHOLE)
    desk.looks(4)
    assert (len(desk.read), len(desk.told)) == (2, 2)
