"""Data that is in memory already: rows one after the other, or columns of them by name."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgepeft.data.contract import Record
from edgepeft.errors import DataError


class _Indexed(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Rows:
    """Mappings that a program made.

    What can be indexed, such as a list or a Hugging Face data set, is read as it is needed; what can only be gone
    through, such as a generator, is gone through once and held.

    Raises:
        DataError: It is nothing of the kind.
    """

    name = "the data"
    size = 0

    def __init__(self, rows: Iterable[Record] | Iterable[str]) -> None:
        indexed = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
        if not indexed and not isinstance(rows, Iterable):
            raise DataError(
                f"the data: expected a file, a folder, columns or a list of rows, got {type(rows).__name__}."
            )
        self._rows: _Indexed = rows if indexed else list(rows)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The rows at some indices."""
        return [(f"row {index + 1}", self._row(index)) for index in indices]

    def digest(self) -> str:
        """SHA-256 of all rows."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            _feed(digest, self._row(index))
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

    Raises:
        DataError: They are not equally long, or one is no column.
    """

    name = "the data"
    size = 0

    def __init__(self, columns: Mapping[str, Any]) -> None:
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
        """SHA-256 of all columns."""
        digest = hashlib.sha256()
        for name in sorted(self._columns):
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
    elif isinstance(value, list | tuple) and not (value and isinstance(value[0], int | float)):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, str):
        content = value.encode(errors="surrogatepass")
        digest.update(f'"{len(content)}"'.encode() + content)
    else:
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(repr(value).encode() if array.dtype.hasobject else array.tobytes())
