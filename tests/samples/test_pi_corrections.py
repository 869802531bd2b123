"""The sample of a small board: corrections that cannot be learned from, and what lies where nobody looks."""

from pathlib import Path

import numpy as np
import pytest

from edgepeft import EdgepeftError
from edgepeft.tensors import Array
from samples.raspberry_pi.folders import Watched, class_strays, lock, strays
from samples.raspberry_pi.inbox import SETTLED_SECONDS, Collection, Corrections

LABELS = ("zero", "one", "two")
WHOLE = "an image"


def decode(path: Path) -> Array:
    """In place of a decoder."""
    if path.read_text() != WHOLE:
        raise EdgepeftError(f"{path}: is no image.")
    return np.zeros(1, np.float32)


class Desk:
    """Folders with a clock that a test moves on, and what was told."""

    def __init__(self, root: Path) -> None:
        self.watched = Watched(root)
        self.watched.make(LABELS)
        self.now = 1000.0
        self.told: list[str] = []
        self.corrections = Corrections(self.watched, LABELS, decode, self.told.append, lambda: self.now)

    def put(self, place: str, content: str = WHOLE) -> Path:
        path = self.watched.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def waiting(self, seconds: int = 2) -> dict[Path, str]:
        """Corrections that wait after a look a second."""
        for _ in range(seconds):
            found = self.corrections.look()
            self.now += 1
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """With no image."""
    return Desk(tmp_path)


def test_corrections_wait_in_folders_of_classes(desk: Desk) -> None:
    """By name or number."""
    named, numbered = desk.put("corrected/two/a.png"), desk.put("corrected/0/b.png")
    assert desk.waiting() == {named: "two", numbered: "0"}
    assert desk.told == []


def test_a_correction_that_cannot_be_decoded_is_put_aside(desk: Desk) -> None:
    """In a line, once it has not changed for a while; it never counts, and the others do."""
    good, bad = desk.put("corrected/two/a.png"), desk.put("corrected/two/b.png", "note")
    assert desk.waiting() == {good: "two"}
    assert bad.exists()
    assert desk.waiting(int(SETTLED_SECONDS) + 1) == {good: "two"}
    assert desk.told == [f"b.png: is no image. It is in {desk.watched.unreadable} now."]
    assert (desk.watched.unreadable / "b.png").exists()


def test_a_folder_of_no_class_is_told_at_once(desk: Desk) -> None:
    """Once, by its own name, with the classes that there are; its images do not count. Renamed, they do."""
    for place in ("corrected/Two/a.png", "corrected/eleven/a.png", "corrected/3/a.png"):
        desk.put(place)
    folder = desk.watched.corrected
    assert desk.waiting(1) == {}
    assert desk.told == [
        f"{folder / name}: is no class, and is passed over; the model knows zero, one, two. Rename it."
        for name in ("3", "Two", "eleven")
    ]
    assert desk.waiting(20) == {}
    assert len(desk.told) == 3
    (folder / "two").rmdir()
    (folder / "Two").rename(folder / "two")
    assert desk.waiting() == {folder / "two" / "a.png": "two"}


def test_what_is_no_image_is_told_once_it_has_stayed(desk: Desk) -> None:
    """A camera may give it another name yet; it stays where it is, and is told again when it comes again."""
    text = desk.put("inbox/text.txt")
    desk.put("corrected/loose.png")
    desk.put("corrected/two/text.txt")
    (desk.watched.inbox / "photos").mkdir()
    (desk.watched.inbox / "gone.png").symlink_to("nowhere")
    (desk.watched.inbox / "itself.png").symlink_to("itself.png")
    desk.waiting(1)
    assert [line.split(":")[0] for line in desk.told] == [str(desk.watched.inbox / "photos")]
    desk.waiting(30)
    names = [Path(line.split(":")[0]).name for line in desk.told]
    assert sorted(names) == ["gone.png", "itself.png", "loose.png", "photos", "text.txt", "text.txt"]
    assert any(line.endswith("expected .png, .jpg, .jpeg, .bmp, .webp, .pgm, .ppm.") for line in desk.told)
    text.unlink()
    desk.waiting(1)
    desk.put("inbox/text.txt")
    desk.waiting(30)
    assert len(desk.told) == 7


def test_a_missing_folder_has_no_strays(tmp_path: Path) -> None:
    """Nor what is hidden."""
    (tmp_path / ".a.txt").touch()
    assert [*strays(tmp_path), *class_strays(tmp_path, LABELS), *strays(tmp_path / "missing")] == []


def test_a_collection_leaves_out_what_cannot_be_used(desk: Desk) -> None:
    """And tells it once, however often it is looked through."""
    good, bad = desk.put("examples/one/a.png"), desk.put("examples/one/b.png", "note")
    desk.put("examples/four/a.png")
    collection = Collection(desk.watched.examples, LABELS, decode, desk.told.append)
    for _ in range(2):
        assert [(name, path) for name, path, _ in collection.look()] == [("one", good)]
    assert len(desk.told) == 2
    assert desk.told[1] == f"{bad}: is no image. It is left out."


def test_a_folder_is_watched_by_one(tmp_path: Path) -> None:
    """In this process, a second lock is as another program's."""
    lock(tmp_path)
    with pytest.raises(EdgepeftError, match="another reader watches it"):
        lock(tmp_path)
