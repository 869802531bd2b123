"""The rows of a data set: all in memory where they are few, encoded when they are needed where they are not."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

from edgepeft import limits
from edgepeft.data.contract import Encoded, Record, Records, Row
from edgepeft.data.encode import Encoder
from edgepeft.errors import DataError

#: Records that are read at once where all are.
_CHUNK_ROWS = 64


class Dataset:
    """Rows at random access.

    Few rows are encoded, checked and kept at once, so that an error comes early. Of many, each is encoded when it is
    read; their records were looked at before, as far as their kind allows.

    Args:
        records: Where the rows come from.
        encoder: What makes them.

    Attributes:
        name: What the data is called in a message.
        truncated_rows: How many rows were cut to `max_length`; `None` where that shows only as they are read.

    Raises:
        DataError: There are none, or one is of no use; the message says which and why.
    """

    def __init__(self, records: Records, encoder: Encoder) -> None:
        if not len(records):
            raise DataError(f"{records.name}: has no rows. Expected at least one.")
        self.name = records.name
        self._records = records
        self._encoder = encoder
        self._held = self._encode_all() if records.size <= limits.MAX_HELD_FILE_BYTES else None
        self._window: dict[int, Encoded] = {}
        self.truncated_rows = None if self._held is None else sum(one.truncated for one in self._held)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def streams(self) -> bool:
        """Whether rows are encoded when they are read."""
        return self._held is None

    @property
    def varies(self) -> bool:
        """Whether rows differ in length."""
        return self._encoder.varies

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what every row has."""
        return tuple(port.name for port in self._encoder.ports)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes that labels may have, in order; none where they are numbers only."""
        return self._encoder.classes or []

    def read(self, indices: Sequence[int]) -> list[Encoded]:
        """The rows at some indices.

        Raises:
            DataError: One is of no use, or the data was changed.
        """
        if self._held is not None:
            return [self._held[index] for index in indices]
        window = self._window  # another thread may replace it meanwhile
        missing = [index for index in indices if index not in window]
        found = dict(zip(missing, self._encode(self._records.read(missing)), strict=True)) if missing else {}
        return [found[index] if index in found else window[index] for index in indices]

    def records(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The records at some indices as the user has them, each with its place for a message.

        Raises:
            DataError: The data was changed.
        """
        found = self._records.read(indices)
        return [(where, {"text": record} if isinstance(record, str) else record) for where, record in found]

    def lengths(self, indices: Sequence[int]) -> list[int]:
        """How long the rows at some indices are; of rows that stream, these are kept until others are asked for.

        Raises:
            DataError: One is of no use, or the data was changed.
        """
        rows = self.read(indices)
        if self._held is None:
            self._window = dict(zip(indices, rows, strict=True))
        return [self._encoder.length(one.row) for one in rows]

    def batches(self, size: int) -> Iterator[list[Row]]:
        """All rows in order, so many at once."""
        for start in range(0, len(self), size):
            yield [one.row for one in self.read(range(start, min(len(self), start + size)))]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all rows in order: of a file, the file's own."""
        return self._records.digest()

    def fingerprint(self) -> str:
        """A hash of all rows in order and of the classes' names, which tells a resumed run that its data is the same."""
        classes = "\n".join(self._encoder.classes or [])
        return hashlib.sha256(f"{self.digest}\n{classes}".encode()).hexdigest()

    def _encode(self, found: Sequence[tuple[str, Record]]) -> list[Encoded]:
        rows = []
        for where, record in found:
            try:
                rows.append(self._encoder.encode(record))
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
        return rows

    def _encode_all(self) -> list[Encoded] | None:
        """All rows, unless they turn out to be many."""
        rows: list[Encoded] = []
        held = 0
        for start in range(0, len(self), _CHUNK_ROWS):
            chunk = self._encode(self._records.read(range(start, min(len(self), start + _CHUNK_ROWS))))
            held += sum(
                limits.HELD_ROW_BYTES + sum(value.nbytes for value in one.row.values()) for one in chunk
            )
            if held > limits.MAX_HELD_BYTES:
                return None
            rows += chunk
        return rows
