"""JSON Lines: one object a line, blank lines between them passed over (jsonlines.org)."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from edgepeft.data.contract import Record
from edgepeft.data.lines import Lines, Place
from edgepeft.errors import DataError


class JsonLines:
    """The format. Numbers that JSON does not have, such as NaN, are refused, and so is a key that stands twice."""

    def split(self, lines: Lines) -> Iterator[tuple[Place, bytes]]:
        """Each line that is not blank."""
        place = lines.place
        for line in lines:
            if line.strip():
                yield place, line
            place = lines.place

    def scan(self, raw: bytes) -> Record:
        """The object; of a key that stands twice the last value, as msgspec reads it, which is what costs least."""
        return _object(raw)

    def decode(self, raw: bytes) -> Record:
        """The object."""
        record = _object(raw)
        try:
            json.loads(raw, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise _broken(error) from error
        return record


def _object(raw: bytes) -> Record:
    try:
        record = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(error) from error
    if not isinstance(record, dict):
        raise DataError(f"expected a JSON object, got {type(record).__name__}.")
    return record


def _broken(error: Exception) -> DataError:
    return DataError(f"broken JSON: {error}. Expected one object a line.")


def _unique(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
