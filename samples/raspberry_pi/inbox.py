"""The inbox, from look to look: which image is whole, which cannot be decoded, and which cannot be moved."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import edgepeft
from samples.raspberry_pi.folders import Watched, images, move

#: Seconds for which a file that cannot be decoded must not have changed to be put aside: a copy may have stalled.
SETTLED_SECONDS = 10.0


@dataclass
class _Arrival:
    """A file in the inbox, as long as it does not change.

    Attributes:
        version: Its size and when it was last written, by whatever clock the camera has.
        since: When it was first seen so, by this machine's monotonic clock.
        undecodable: Whether it was tried in vain.
        going: The folder that it belongs to, and what is told once it is there.
        told: Errors of it that were told.
    """

    version: tuple[int, int]
    since: float
    undecodable: bool = False
    going: tuple[Path, str] | None = None
    told: set[str] = field(default_factory=set)


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
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched = watched
        self._classify = classify
        self._tell = tell
        self._clock = clock
        self._arrivals: dict[Path, _Arrival] = {}

    def look(self) -> Iterator[Path]:
        """Sorts what has not changed since the last look: one that is being copied is left alone.

        Yields:
            Where each image that was read is now.
        """
        for path, arrival in self._whole():
            place = self._sort(path, arrival)
            if place is not None:
                yield place

    def _whole(self) -> list[tuple[Path, _Arrival]]:
        before, self._arrivals = self._arrivals, {}
        whole = []
        for path in images(self._watched.inbox):
            with contextlib.suppress(OSError):  # it is gone again, or a link to nothing
                status = path.stat()
                version = (status.st_size, status.st_mtime_ns)
                known = before.get(path)
                if known is not None and known.version == version:
                    whole.append((path, known))
                else:
                    known = _Arrival(version, self._clock())
                self._arrivals[path] = known
        return whole

    def _sort(self, path: Path, arrival: _Arrival) -> Path | None:
        """Moves a file to where it belongs; what cannot be moved is tried again at each look, but not read again."""
        arrival.going = arrival.going or self._destination(path, arrival)
        if arrival.going is None:
            return None
        folder, text = arrival.going
        try:
            place = move(path, folder)
        except OSError as error:
            if str(error) not in arrival.told:
                arrival.told.add(str(error))
                why = error.strerror or error
                self._tell(
                    f"could not move {path} to {folder}: {why}; it is tried again until that is mended"
                )
            return None
        del self._arrivals[path]
        self._tell(f"{place.name}: {text}")
        return None if folder == self._watched.unreadable else place

    def _destination(self, path: Path, arrival: _Arrival) -> tuple[Path, str] | None:
        """Where a file belongs, and why; `None` while it may be half of an image."""
        settled = self._clock() - arrival.since >= SETTLED_SECONDS
        if arrival.undecodable and not settled:
            return None
        try:
            found = self._classify(path)
        except edgepeft.EdgepeftError as error:
            arrival.undecodable = True
            told = str(error).removeprefix(f"{path}: ")
            aside = self._watched.unreadable
            return (aside, f"{told} It is in {aside} now.") if settled else None
        return self._watched.read / found.label, f"{found.label}, {found.probability:.0%}"
