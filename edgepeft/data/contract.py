"""What data is: records as a user has them, and the rows that the model takes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from edgepeft.tensors import Array

#: A label that is not counted, as PyTorch and Hugging Face have it.
IGNORED = -100

#: The axis whose size is a row's length.
LENGTH = "length"

#: One row as it is given: a text and its label, a prompt and its completion, arrays by name.
Record = Mapping[str, Any]

#: One row as the model takes it: the data inputs of a graph by name, without the batch axis.
Row = Mapping[str, Array]

#: What a user may give: a file, a folder, columns by name, or rows. docs/data.md shows each.
Data = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Record] | Iterable[str]


class Encoded(NamedTuple):
    """A row, and whether it was cut to the length that the user allows."""

    row: Row
    truncated: bool


class Records(Protocol):
    """Records that can be read in any order.

    Attributes:
        name: What they are called in a message.
        size: Bytes of the file that they are in; 0 for what is in memory already.
    """

    name: str
    size: int

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The records at some indices, each with its place for a message.

        Raises:
            DataError: One cannot be read any more, or is not what it was.
        """
        ...

    def digest(self) -> str:
        """SHA-256 of all records in order, computed piece by piece."""
        ...
