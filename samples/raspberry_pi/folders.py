"""What lies in the watched folder, as plain functions on files: the rest of the sample is on top of them."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: What a camera or scanner writes; see docs/data.md.
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"}


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
    def unreadable(self) -> Path:
        """Files that are no images."""
        return self.root / "unreadable"

    def make(self, labels: tuple[str, ...]) -> None:
        """Makes the folders that somebody puts images into."""
        self.inbox.mkdir(parents=True, exist_ok=True)
        for label in labels:
            (self.corrected / label).mkdir(parents=True, exist_ok=True)


def images(folder: Path) -> list[Path]:
    """The images right in a folder, by name; hidden ones, which are being written, left out."""
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(
        path for path in found if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
    )


def by_class(folder: Path) -> Iterator[tuple[str, Path]]:
    """Images in the folders of classes, with the class."""
    for inside in sorted(folder.iterdir()) if folder.is_dir() else ():
        for path in images(inside):
            yield inside.name, path


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


def gather(watched: Watched, target: Path) -> int:
    """Makes a folder of all that is to be learned from: examples and corrections, by class.

    Copies: a system that protects links lets nobody link what somebody else has put there.

    Returns:
        How many images are in it.
    """
    shutil.rmtree(target, ignore_errors=True)
    count = 0
    for source in (watched.examples, watched.corrected):
        for label, path in by_class(source):
            place = target / label / f"{source.name}-{path.name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            count += 1
    return count
