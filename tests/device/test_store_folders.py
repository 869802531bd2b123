"""Folders that a killed writer left half: the next writer of the same place removes them, and no other."""

import fcntl
import os
from pathlib import Path

import pytest

from edgepeft import store
from edgepeft.errors import StorageError

HEX = "0123456789abcdef"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_half(folder: Path, name: str = f".run.{HEX}.edgepeft-tmp") -> Path:
    """The temporary folder of a writer that is dead."""
    left = folder / name
    (left / "sub").mkdir(parents=True)
    (left / "sub" / "a").write_bytes(b"half")
    return left


def write(path: Path) -> None:
    store.write_folder(path, {"a": b"new"}, replaceable=lambda _: True)


def test_what_was_left_half_goes_with_the_next_write(tmp_path: Path) -> None:
    """A folder that is made, and one that is replaced."""
    for _ in range(2):
        left_half(tmp_path)
        write(tmp_path / "run")
        assert names(tmp_path) == ["run"]
        assert names(tmp_path / "run") == ["a"]


def test_it_stays_if_the_write_fails(tmp_path: Path) -> None:
    """Somebody may still want it."""
    left = left_half(tmp_path)
    (tmp_path / "run").write_bytes(b"mine")
    with pytest.raises(StorageError, match="exists and is something else"):
        store.write_folder(tmp_path / "run", {}, replaceable=lambda _: False)
    assert names(tmp_path) == [left.name, "run"]


@pytest.mark.parametrize(
    "name",
    [
        ".run.20251127",
        f".run.{HEX}",
        f".run.{HEX[1:]}.edgepeft-tmp",
        f".run.{HEX.upper()}.edgepeft-tmp",
        f"run.{HEX}.edgepeft-tmp",
        f".walk.{HEX}.edgepeft-tmp",
        f".run.{HEX}.edgepeft-old",
    ],
)
def test_folders_of_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    """Exactly the names that this program gives, for this folder: a date is eight hexadecimal digits."""
    left = left_half(tmp_path, name)
    write(tmp_path / "run")
    assert (left / "sub" / "a").exists()


def test_what_is_no_folder_is_left_alone(tmp_path: Path) -> None:
    """A file, and a link to a folder."""
    (tmp_path / f".run.1{HEX[1:]}.edgepeft-tmp").write_bytes(b"mine")
    (tmp_path / f".run.2{HEX[1:]}.edgepeft-tmp").symlink_to(left_half(tmp_path, "elsewhere"))
    before = names(tmp_path)
    write(tmp_path / "run")
    assert names(tmp_path) == sorted([*before, "run"])
    assert (tmp_path / "elsewhere" / "sub" / "a").exists()


def test_a_live_writers_folder_is_left_alone(tmp_path: Path) -> None:
    """Two that write the same folder at once both succeed; the later one wins."""
    with store.new_folder(tmp_path / "run", replaceable=lambda _: True) as ours:
        (ours / "a").write_bytes(b"ours")
        write(tmp_path / "run")
        assert (ours / "a").exists()
    assert (tmp_path / "run" / "a").read_bytes() == b"ours"
    assert names(tmp_path) == ["run"]


def test_a_cleaner_that_is_faster_than_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder that is taken away before it could be locked is made again."""
    real, taken = fcntl.flock, []

    def taken_away(descriptor: int, operation: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").resolve()
        if place.is_dir() and not taken:
            taken.append(place)
            place.rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", taken_away)
    write(tmp_path / "run")
    assert len(taken) == 1
    assert names(tmp_path) == ["run"]
    assert not os.path.lexists(taken[0])


def test_what_made_way_outlives_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names cannot be swapped: a power cut between the two renames, then a write that clears away."""
    monkeypatch.setattr(store, "_exchange", lambda *_: False)
    store.write_folder(tmp_path / "run", {"a": b"old"}, replaceable=lambda _: True)
    child = os.fork()
    if not child:
        real, made = Path.rename, []

        def cut(self: Path, target: Path) -> Path:
            made.append(self)
            if len(made) == 2:  # the old folder has made way, the new one has not got its name
                os._exit(0)
            return real(self, target)

        monkeypatch.setattr(Path, "rename", cut)
        write(tmp_path / "run")
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert not (tmp_path / "run").exists()
    write(tmp_path / "run")
    assert sorted(path.read_bytes() for path in tmp_path.glob("*run*/a")) == [b"new", b"old"]
    assert len(names(tmp_path)) == 2
