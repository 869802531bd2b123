"""Files of lines, indexed in one pass: which record begins where, in memory that does not grow with the file."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edgepeft import limits
from edgepeft.data import files
from edgepeft.data.contract import Record
from edgepeft.errors import DataError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """Where a record begins: bytes, and lines counted from 1, from the start of the file."""

    offset: int
    line: int


class Lines:
    """The lines of an open file from a place on; a byte-order mark at its start is passed over.

    Attributes:
        place: Where the next line begins.

    Raises:
        DataError: A line is longer than `limits.MAX_LINE_BYTES`.
    """

    def __init__(self, path: Path, file: BufferedReader, place: Place) -> None:
        self.place = place
        self._path = path
        self._file = file
        file.seek(place.offset)

    def where(self, place: Place) -> str:
        """A place for a message."""
        return f"{self._path}:{place.line}"

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._file.readline(limits.MAX_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        if len(line) > limits.MAX_LINE_BYTES:
            raise DataError(
                f"{self.where(self.place)}: longer than {limits.MAX_LINE_BYTES:,} bytes. One row a line."
            )
        first = self.place.offset == 0
        self.place = Place(self.place.offset + len(line), self.place.line + 1)
        return line.removeprefix(_BYTE_ORDER_MARK) if first else line


class Format(Protocol):
    """How a file's lines make records."""

    def split(self, lines: Lines) -> Iterator[tuple[Place, Any]]:
        """Each record's place and raw form.

        Raises:
            DataError: A record does not end.
        """
        ...

    def scan(self, raw: Any) -> Record:
        """The record, for the first look at every one of them; may be quicker than `decode` and see less.

        Raises:
            DataError: The raw form is no record.
        """
        ...

    def decode(self, raw: Any) -> Record:
        """The record.

        Raises:
            DataError: The raw form is no record.
        """
        ...


class SparseIndex:
    """Where every k-th record begins. When the index is full, every second entry goes and k doubles.

    Attributes:
        count: How many records there are.
        stride: The k.
        places: Where records 0, k, 2k, ... begin; never more than `limits.MAX_INDEX_ENTRIES`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.stride = 1
        self.places: list[Place] = []

    def add(self, place: Place) -> None:
        """Counts the next record."""
        if self.count % self.stride == 0:
            if len(self.places) >= limits.MAX_INDEX_ENTRIES:
                del self.places[1::2]
                self.stride *= 2
            if self.count % self.stride == 0:
                self.places.append(place)
        self.count += 1


@contextmanager
def _telling(where: str) -> Iterator[None]:
    """Adds the place to what is said of a record."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


class IndexedFile:
    """Records of a file of lines. The file is read once at the start, and after that a place at a time.

    Args:
        path: The file.
        make_format: Makes the format; may read the file's first lines for it.
        check: Told each record of the file; raises DataError for one that is of no use.

    Raises:
        DataError: The file cannot be read, or a record is broken; the message has its line.
    """

    def __init__(
        self, path: Path, make_format: Callable[[Lines], Format], check: Callable[[Record], None]
    ) -> None:
        self.name = str(path)
        self._path = path
        self.index = SparseIndex()
        with files.opened(path) as file:
            self._signature = files.signature(file)
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines = Lines(path, file, Place(0, 1))
            self._format = make_format(lines)
            for place, raw in self._format.split(lines):
                try:  # rather than _telling, which takes as long as the look at a row
                    check(self._format.scan(raw))
                except DataError as error:
                    raise DataError(f"{lines.where(place)}: {error}") from error
                self.index.add(place)
            self.size = lines.place.offset

    def __len__(self) -> int:
        return self.index.count

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The records at some indices, each with its place."""
        found: dict[int, tuple[str, Record]] = {}
        with files.opened(self._path) as file:
            if files.signature(file) != self._signature:
                raise DataError(f"{self.name}: was changed while it was in use. Start again.")
            records: Iterator[tuple[Place, Any]] = iter(())
            following, until = 0, 0  # which record the iterator gives next, and where it is better to seek
            for index in sorted(set(indices)):
                if index >= until:
                    entry = index // self.index.stride
                    following = entry * self.index.stride
                    until = following + self.index.stride
                    records = self._format.split(Lines(self._path, file, self.index.places[entry]))
                for place, raw in records:
                    following += 1
                    if following > index:
                        where = f"{self.name}:{place.line}"
                        with _telling(where):
                            found[index] = where, self._format.decode(raw)
                        break
        return [found[index] for index in indices]

    def digest(self) -> str:
        """SHA-256 of the file."""
        return self._digest
