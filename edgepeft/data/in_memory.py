"""Data that is in memory already: rows one after the other, or columns of them by name."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgepeft.data.contract import Record
from edgepeft.errors import DataError
from edgepeft.tensors import Array


class _Indexed(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


#: Of a record's keys, those that are read.
Reads = Callable[[Iterable[str]], Iterable[str]]


class Rows:
    """Mappings that a program made.

    What can be indexed, such as a list or a Hugging Face data set, is read as it is needed; what can only be gone
    through, such as a generator, is gone through once and held.

    Args:
        rows: The mappings, or texts.
        reads: Which of their keys count for the digest.

    Raises:
        DataError: It is nothing of the kind.
    """

    name = "the data"
    size = 0

    def __init__(self, rows: Iterable[Record] | Iterable[str], reads: Reads) -> None:
        indexed = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
        if not indexed and not isinstance(rows, Iterable):
            raise DataError(
                f"the data: expected a file, a folder, columns or a list of rows, got {type(rows).__name__}."
            )
        self._reads = reads
        self._rows: _Indexed = rows if indexed else list(rows)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The rows at some indices."""
        return [(f"row {index + 1}", self._row(index)) for index in indices]

    def digest(self) -> str:
        """SHA-256 of all rows, as far as they are read."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            row, where = self._row(index), f"row {index + 1}"
            try:
                read = {name: row[name] for name in self._reads(row)} if isinstance(row, Mapping) else row
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            _feed(digest, read)
        return digest.hexdigest()

    def _row(self, index: int) -> Any:
        try:
            return self._rows[index]
        except Exception as error:  # whoever made it decides what it raises
            raise DataError(
                f"row {index + 1}: cannot be read: {type(error).__name__}: {error}. Give a list of dicts, or a dict "
                "of columns."
            ) from error


class Columns:
    """Columns by name, each with a value a row: arrays whose first axis is the row, or lists.

    Args:
        columns: The columns.
        reads: Which of them count for the digest.

    Raises:
        DataError: They are not equally long, or one is no column.
    """

    name = "the data"
    size = 0

    def __init__(self, columns: Mapping[str, Any], reads: Reads) -> None:
        self._reads = reads
        self._columns = dict(columns)
        lengths = {name: _length(name, column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(
                f"the data: its columns are not equally long: {told}. Give one value a row in each."
            )
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The rows at some indices."""
        return [
            (f"row {index + 1}", {name: column[index] for name, column in self._columns.items()})
            for index in indices
        ]

    def digest(self) -> str:
        """SHA-256 of all columns that are read."""
        digest = hashlib.sha256()
        for name in sorted(self._reads(self._columns)):
            _feed(digest, name)
            for value in self._columns[name]:
                _feed(digest, value)
        return digest.hexdigest()


def _length(name: str, column: Any) -> int:
    if (isinstance(column, np.ndarray) and column.ndim) or isinstance(column, list | tuple):
        return len(column)
    raise DataError(
        f"the data: got dict whose {str(name)[:80]!r} is {type(column).__name__}; expected in each an array or a "
        "list with one value a row. A single row goes into a list: [row]."
    )


def _feed(digest: Any, value: Any) -> None:
    """Hashes a value so that no two that differ look alike: each with its kind and its length."""
    if isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for name in sorted(value, key=str):
            _feed(digest, str(name))
            _feed(digest, value[name])
    elif isinstance(value, list | tuple) and (numbers := _numbers(value)) is not None:
        _feed(digest, numbers)
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, str):
        content = value.encode(errors="surrogatepass")
        digest.update(f'"{len(content)}"'.encode() + content)
    else:
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        if not array.dtype.hasobject:
            digest.update(array.tobytes())
        elif array.ndim:
            for item in array.flat:
                _feed(digest, item)
        else:
            digest.update(repr(value).encode())


def _numbers(value: Sequence[Any]) -> Array | None:
    """A list of numbers, or of equally long lists of them, as an array: as quick to hash as one."""
    if not value or not isinstance(value[0], int | float):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    return array if array.dtype.kind in "biuf" else None
