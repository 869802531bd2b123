"""What a data set consists of."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgepeft import names
from edgepeft.data import Dataset

#: Rows of data that streams that are looked at; of data in memory, all are.
MAX_ROWS = 1000
_CHUNK_ROWS = 64


@dataclass(frozen=True)
class DataSummary:
    """What a data set consists of.

    Attributes:
        name: What it is called: its path, where it is in a file or a folder.
        sha256: SHA-256 of the file, or of what else it consists of.
        rows: How many rows there are.
        looked_at: Of how many of them, the first, the rest tells.
        length: Their lengths together: tokens, of text; 0 where rows have none.
        longest: The longest one's length.
        truncated: How many were cut to `max_length`.
        classes: Rows of each class by its name, the most frequent first; empty where labels are no classes.
    """

    name: str
    sha256: str
    rows: int
    looked_at: int
    length: int
    longest: int
    truncated: int
    classes: Mapping[str, int]


def summarize(data: Dataset, *, has_classes: bool) -> DataSummary:
    """Looks at a data set's rows.

    Args:
        data: The data set.
        has_classes: Whether a row's label is the number of a class.

    Raises:
        DataError: A row is of no use.
    """
    count = min(len(data), MAX_ROWS) if data.streams else len(data)
    lengths: list[int] = []
    truncated = 0
    labels: Counter[int] = Counter()
    for start in range(0, count, _CHUNK_ROWS):
        indices = range(start, min(count, start + _CHUNK_ROWS))
        rows = data.read(indices)
        lengths += data.lengths(indices)
        truncated += sum(one.truncated for one in rows)
        if has_classes:
            labels.update(int(label) for one in rows for label in np.ravel(one.row[names.LABELS]))
    return DataSummary(
        name=data.name,
        sha256=data.digest,
        rows=len(data),
        looked_at=count,
        length=sum(lengths),
        longest=max(lengths),
        truncated=truncated,
        classes={class_name(label, data): rows_of for label, rows_of in labels.most_common()},
    )


def class_name(label: int, data: Dataset) -> str:
    """A class's name; its number, where it has none or is not counted."""
    return data.classes[label] if 0 <= label < len(data.classes) else str(label)
