"""CSV with a header row (RFC 4180): columns named like the keys of a record, or numbers for a model's one input."""

import csv
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edgepeft import names
from edgepeft.data.contract import Record
from edgepeft.data.encode import written_label
from edgepeft.data.lines import Lines, Place
from edgepeft.errors import DataError
from edgepeft.limits import MAX_LINE_BYTES
from edgepeft.manifest import Port

#: Columns that hold the answer; the others hold what it is told from.
_LABELS = ("label", names.LABELS)

#: Held while the limit of the csv module is ours: another thread that reads must not put it back meanwhile.
_FIELD_LIMIT = threading.Lock()


@dataclass(frozen=True)
class Columns:
    """What the columns of a file become.

    Attributes:
        header: Their names, in order.
        numbers: The input that all columns but the label make together, if the model takes numbers.
        classes: Names of the classes, or `None` if the label is no class.
    """

    header: tuple[str, ...]
    numbers: str | None
    classes: Sequence[str] | None


class CsvFile:
    """The format. A field in quotes may hold commas and ends of lines; two quotes in it are one.

    Args:
        lines: The file, from its first line, which is read as the header.
        ports: The inputs that a row is for.
        classes: Names of the classes, none if they have none; `None` if the label is no class.
        text: Whether the model takes text.

    Raises:
        DataError: The header is missing or broken, or its columns are not what the model takes.
    """

    def __init__(
        self, lines: Lines, ports: Sequence[Port], classes: Sequence[str] | None, *, text: bool
    ) -> None:
        place, header = next(_fields(lines), (lines.place, []))
        where = lines.where(place)
        if not header:
            raise DataError(f"{where}: has no rows. Expected a header, and at least one row below it.")
        if all(name in header for name in _LABELS):
            raise DataError(f"{where}: has both a column 'label' and 'labels'. Keep one.")
        twice = next((name for index, name in enumerate(header) if not name or name in header[:index]), None)
        if twice is not None:
            raise DataError(f"{where}: column {twice!r} is named twice or not at all. Name each column.")
        numbers = None if text else _numbers(where, header, ports)
        self._columns = Columns(tuple(header), numbers, classes)

    def split(self, lines: Lines) -> Iterator[tuple[Place, list[str]]]:
        """Each row below the header."""
        return _fields(lines)

    def scan(self, raw: list[str]) -> Record:
        """As `decode`."""
        return self.decode(raw)

    def decode(self, raw: list[str]) -> Record:
        """The row, a label in digits as a number."""
        header = self._columns.header
        if len(raw) != len(header):
            raise DataError(
                f"has {len(raw)} columns, the header {len(header)}. Quote a field that has commas."
            )
        fields = dict(zip(header, raw, strict=True))
        answer = next((fields.pop(name) for name in _LABELS if name in fields), None)
        labels = {} if answer is None else {"label": _label(answer, self._columns.classes)}
        if self._columns.numbers is None:
            return fields | labels
        return {self._columns.numbers: [_number(name, text) for name, text in fields.items()]} | labels


def _fields(lines: Lines) -> Iterator[tuple[Place, list[str]]]:
    """Rows of fields and where each begins; blank lines are passed over."""
    started = lines.place

    def decoded() -> Iterator[str]:
        for line in lines:
            yield line.decode()

    reader = csv.reader(decoded(), strict=True)
    while True:
        started = lines.place
        try:
            with _long_fields():
                row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{lines.where(started)}: broken CSV: {error}. Check its quotes.") from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{lines.where(started)}: broken CSV: no UTF-8 at byte {error.start}. Save it as UTF-8."
            ) from error
        if row:
            yield started, row


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lets a field be as long as a line may be. The library's limit is one for the whole program, and is put back."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, MAX_LINE_BYTES))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _numbers(where: str, header: Sequence[str], ports: Sequence[Port]) -> str:
    """The one input that the columns but the label make."""
    inputs = [port for port in ports if port.name != names.LABELS]
    if len(inputs) != 1 or not inputs[0].dtype.startswith("float") or len(inputs[0].shape) != 2:
        taken = ", ".join(f"{port.name} {port.shape}" for port in inputs)
        raise DataError(
            f"{where}: a CSV file is for text, or for one input of numbers; this model takes {taken}. "
            "Give arrays instead."
        )
    columns = [name for name in header if name not in _LABELS]
    width = inputs[0].shape[1]
    if isinstance(width, int) and len(columns) != width:
        raise DataError(
            f"{where}: has {len(columns)} columns of numbers; {inputs[0].name!r} takes {width}, "
            "and the answer is in a column 'label'."
        )
    return inputs[0].name


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"column {name!r} holds {text[:80]!r}; expected a number.") from error
    if not math.isfinite(value):
        raise DataError(f"column {name!r} holds {text[:80]!r}; expected a finite number.")
    return value


def _label(text: str, classes: Sequence[str] | None) -> str | int | float:
    """A class by its name or its number; or, of a model without classes, a number."""
    return _number("label", text) if classes is None else written_label(text, classes)
