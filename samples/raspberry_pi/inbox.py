"""What is put in, from look to look: which image is whole, which cannot be decoded, and what is no image at all."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import edgepeft
from edgepeft.tensors import Array
from samples.raspberry_pi.folders import (
    Watched,
    by_class,
    class_of,
    class_strays,
    images,
    move,
    strays,
)

#: Seconds for which a file that cannot be used must not have changed to be told: a copy may have stalled.
SETTLED_SECONDS = 10.0

#: Takes a line of what happened.
Tell = Callable[[str], None]
#: Reads an image as the model takes it; raises EdgepeftError if there is none.
Decode = Callable[[Path], Array]
#: Seconds that only go forward.
Clock = Callable[[], float]
Found = TypeVar("Found")


@dataclass
class _Arrival(Generic[Found]):
    """A file, as long as it does not change.

    Attributes:
        version: Its size and when it was last written, by whatever clock the camera has.
        since: When it was first seen so, by this machine's monotonic clock.
        found: What was made of it.
        refused: Why nothing could be.
        told: Errors of moving it that were told.
    """

    version: tuple[int, int]
    since: float
    found: Found | None = None
    refused: str = ""
    told: set[str] = field(default_factory=set)


class Arrivals(Generic[Found]):
    """Images that are put in: each is read once it is whole, and put aside if it cannot be.

    Args:
        aside: Where those go that cannot be decoded.
        use: Makes something of an image.
        tell: Takes a line of what happened.
        clock: Seconds that only go forward.
    """

    def __init__(self, aside: Path, use: Callable[[Path], Found], tell: Tell, clock: Clock) -> None:
        self._aside = aside
        self._use = use
        self._tell = tell
        self._clock = clock
        self._arrivals: dict[Path, _Arrival[Found]] = {}

    def look(self, paths: Iterable[Path]) -> list[tuple[Path, Found]]:
        """What was made of those that have not changed since the last look: one that is being copied is left alone."""
        before, self._arrivals = self._arrivals, {}
        whole = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # it is gone again
                status = path.stat()
                version = (status.st_size, status.st_mtime_ns)
                known = before.get(path)
                if known is not None and known.version == version:
                    whole.append((path, known))
                else:
                    known = _Arrival(version, self._clock())
                self._arrivals[path] = known
        for path, arrival in whole:
            self._read(path, arrival)
        return [(path, arrival.found) for path, arrival in whole if arrival.found is not None]

    def move(self, path: Path, folder: Path) -> Path | None:
        """Moves a file; what cannot be moved is told once, and is tried again at the next look."""
        try:
            place = move(path, folder)
        except OSError as error:
            told = self._arrivals[path].told
            if str(error) not in told:
                told.add(str(error))
                why = error.strerror or error
                self._tell(
                    f"could not move {path} to {folder}: {why}; it is tried again until that is mended"
                )
            return None
        del self._arrivals[path]
        return place

    def _read(self, path: Path, arrival: _Arrival[Found]) -> None:
        """Reads a file once when it is whole, and once more when it has settled, to put it aside."""
        settled = self._clock() - arrival.since >= SETTLED_SECONDS
        if arrival.found is None and (not arrival.refused or (settled and not arrival.told)):
            try:
                arrival.found = self._use(path)
            except edgepeft.EdgepeftError as error:
                arrival.refused = str(error).removeprefix(f"{path}: ")
        if arrival.found is None and settled and self.move(path, self._aside) is not None:
            self._tell(f"{path.name}: {arrival.refused} It is in {self._aside} now.")


class Inbox:
    """Sorts new images by what they are read as.

    Args:
        watched: The folders.
        classify: Reads an image.
        tell: Takes a line of what happened.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        watched: Watched,
        classify: Callable[[Path], edgepeft.Classification],
        tell: Tell,
        clock: Clock = time.monotonic,
    ) -> None:
        self._watched = watched
        self._tell = tell
        self._arrivals = Arrivals(watched.unreadable, classify, tell, clock)

    def look(self) -> Iterator[Path]:
        """Where each image is now that was read since the last look."""
        for path, found in self._arrivals.look(images(self._watched.inbox)):
            place = self._arrivals.move(path, self._watched.read / found.label)
            if place is not None:
                self._tell(f"{place.name}: {found.label}, {found.probability:.0%}")
                yield place


class Corrections:
    """Images in folders of classes that the model knows and that it can decode: what can be learned from.

    Args:
        watched: The folders.
        labels: Names of the classes.
        decode: Reads an image.
        tell: Takes a line of what happened.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        watched: Watched,
        labels: tuple[str, ...],
        decode: Decode,
        tell: Tell,
        clock: Clock = time.monotonic,
    ) -> None:
        self._watched = watched
        self._labels = labels
        self._decode = decode
        self._arrivals = Arrivals(watched.unreadable, self._is_image, tell, clock)
        self._strays = Strays(tell, clock)

    def look(self) -> dict[Path, str]:
        """The folder's name of each correction that waits. What lies in a wrong place, here or in the inbox, is told."""
        found = [
            *strays(self._watched.inbox),
            *class_strays(self._watched.corrected, self._labels),
        ]
        self._strays.look(found)
        named = {
            path: name
            for name, path in by_class(self._watched.corrected)
            if class_of(name, self._labels) is not None
        }
        return {path: named[path] for path, _ in self._arrivals.look(named)}

    def _is_image(self, path: Path) -> bool:
        self._decode(path)
        return True


class Strays:
    """What is passed over is told once, as long as it is there: a folder at once, a file when it has stayed."""

    def __init__(self, tell: Tell, clock: Clock = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._since: dict[Path, float] = {}
        self._told: set[Path] = set()

    def look(self, found: Iterable[tuple[Path, str]], settled: float = SETTLED_SECONDS) -> None:
        """Tells what is new.

        Args:
            found: What there is now, and why it is passed over.
            settled: Seconds for which a file has to be there.
        """
        now, before, self._since = self._clock(), self._since, {}
        for path, why in found:
            self._since[path] = since = before.get(path, now)
            if path not in self._told and (now - since >= settled or path.is_dir()):
                self._told.add(path)
                self._tell(f"{path}: {why}")
        self._told &= self._since.keys()


class Collection:
    """A folder of classes with images that stay there. What cannot be used is left out and told once.

    Args:
        folder: The folder; may be missing.
        labels: Names of the classes.
        decode: Reads an image.
        tell: Takes a line of what happened.
    """

    def __init__(self, folder: Path, labels: tuple[str, ...], decode: Decode, tell: Tell) -> None:
        self._folder = folder
        self._labels = labels
        self._decode = decode
        self._strays = Strays(tell)

    def look(self) -> Iterator[tuple[str, Path, Array]]:
        """The folder's name, the file and the image itself of each that can be used."""
        left_out = list(class_strays(self._folder, self._labels))
        for name, path in by_class(self._folder):
            if class_of(name, self._labels) is None:
                continue
            try:
                image = self._decode(path)
            except edgepeft.EdgepeftError as error:
                left_out.append((path, f"{str(error).removeprefix(f'{path}: ')} It is left out."))
            else:
                yield name, path, image
        self._strays.look(left_out, settled=0)
