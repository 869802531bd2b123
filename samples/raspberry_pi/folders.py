"""What lies in the watched folder, as plain functions on files: the rest of the sample is on top of them."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepeft.data.encode import class_index, written_label
from edgepeft.data.images import SUFFIXES
from edgepeft.errors import DataError, EdgepeftError
from edgepeft.labels import listed


@dataclass(frozen=True)
class Watched:
    """The folders inside one folder; somebody puts images into two of them, by hand or by a program.

    Attributes:
        root: The folder itself.
    """

    root: Path

    @property
    def inbox(self) -> Path:
        """New images are put here."""
        return self.root / "inbox"

    @property
    def read(self) -> Path:
        """They go to read/<class>, by what was read."""
        return self.root / "read"

    @property
    def corrected(self) -> Path:
        """A wrong one is moved from there to corrected/<right class>."""
        return self.root / "corrected"

    @property
    def examples(self) -> Path:
        """What is trained on, by class: what came along, and corrections that were learned from."""
        return self.root / "examples"

    @property
    def held_out(self) -> Path:
        """Images by class that nothing is learned from, to tell how good it is; may be missing."""
        return self.root / "held_out"

    @property
    def adapter(self) -> Path:
        """What was learned."""
        return self.root / "adapter"

    @property
    def unused(self) -> Path:
        """What was learned on another bundle."""
        return self.root / "unused"

    @property
    def unreadable(self) -> Path:
        """Images that cannot be decoded."""
        return self.root / "unreadable"

    def make(self, labels: tuple[str, ...]) -> bool:
        """Makes the folders that somebody puts images into, as far as they are missing.

        Returns:
            Whether the root is new, too. What that is in must be there.
        """
        new = not self.root.is_dir()
        self.root.mkdir(exist_ok=True)
        self.inbox.mkdir(exist_ok=True)
        for label in labels:
            with contextlib.suppress(FileExistsError):  # a file of that name is told of as a stray
                (self.corrected / label).mkdir(parents=True, exist_ok=True)
        return new


def lock(folder: Path) -> None:
    """Takes a folder for this program, until it ends.

    Raises:
        EdgepeftError: Another has it.
    """
    file = os.open(folder / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise EdgepeftError(
            f"{folder}: another reader watches it. End that one, or take another folder."
        ) from error


def reason(error: Exception) -> str:
    """What went wrong, in words, without a stop at the end."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error).rstrip(".")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; hidden things, which are being written, left out."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as found:
        return sorted(
            (entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.name.lower().endswith(SUFFIXES) and entry.is_file()
    return False


def images(folder: Path) -> list[Path]:
    """The images right in a folder, by name."""
    return [Path(entry.path) for entry in _entries(folder) if _is_image(entry)]


def by_class(folder: Path) -> Iterator[tuple[str, Path]]:
    """Images in the folders of classes, with the folder's name; a folder that may not be listed has none."""
    for inside in _entries(folder):
        found: list[Path] = []
        if _is_folder(inside):
            with contextlib.suppress(PermissionError):
                found = images(Path(inside.path))
        for path in found:
            yield inside.name, path


def class_of(name: str, labels: Sequence[str]) -> int | None:
    """The number of the class that a folder is named after, by its name or number; `None` if there is none."""
    try:
        return class_index(written_label(name, labels), labels)
    except DataError:
        return None


def strays(folder: Path) -> Iterator[tuple[Path, str]]:
    """What lies among images and is passed over, and why."""
    for entry in _entries(folder):
        if _is_folder(entry):
            yield Path(entry.path), "is a folder, and is passed over; only images are expected here."
        elif not _is_image(entry):
            kinds = ", ".join(SUFFIXES)
            yield Path(entry.path), f"is no image file by its name, and is passed over; expected {kinds}."


def class_strays(folder: Path, labels: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The same of a folder of classes."""
    for entry in _entries(folder):
        path = Path(entry.path)
        if not _is_folder(entry):
            yield path, "is in no folder of a class, and is passed over. Move it into one."
        elif class_of(entry.name, labels) is None:
            known = listed(labels, "numbers from 0")
            yield path, f"is no class, and is passed over; the model knows {known}. Rename it."
        else:
            try:
                inside = list(strays(path))
            except PermissionError:
                inside = [(path, "may not be listed, and is passed over. Let this program's group read it.")]
            yield from inside


def move(path: Path, folder: Path) -> Path:
    """Moves a file into a folder; one of the same name stays, and the new one gets a number."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}-{number}{path.suffix}"
    path.rename(target)
    return target


def gather(files: Iterable[tuple[Path, str]], target: Path) -> int:
    """Makes a folder of classes with copies of images, numbered.

    Copies: a system that protects links lets nobody link what somebody else has put there.

    Returns:
        How many; one that is gone meanwhile is left out.
    """
    shutil.rmtree(target, ignore_errors=True)
    count = 0
    for path, label in files:
        place = target / label / f"{count}{path.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, place)
            count += 1
    return count
