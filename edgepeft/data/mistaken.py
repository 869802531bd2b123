"""Files that are taken for data of a kind that they are not: told as what they are, before a line of them is blamed."""

import re
import shlex
from pathlib import Path

from edgepeft.data import files
from edgepeft.errors import DataError

#: Bytes that are enough to see it.
_START_BYTES = 256

#: Characters of a file's start that a message shows.
_SHOWN = 20

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

#: What JSON Lines are called; a file of another name that does not begin as they do is something else.
_JSON_LINES = (".jsonl", ".ndjson", ".json")

#: How an array of rows begins.
_ARRAY = re.compile(rb'\[\s*[{"]')

#: A field in quotes, or one whose end is not in sight.
_QUOTED = re.compile(r'"[^"]*("|$)')

#: What separates the columns of a table that is no CSV, by what it is called.
_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def check_json_lines(path: Path) -> None:
    """Refuses what is no JSON Lines at all.

    Raises:
        DataError: It is UTF-16, a binary file, one JSON array, or text of another kind.
    """
    start = _start(path)
    text = start.strip()
    if _ARRAY.match(text):
        raise DataError(
            f"{path}: is one JSON array; expected JSON Lines, an object a line. Write it so: "
            f"jq -c '.[]' {shlex.quote(str(path))} > {shlex.quote(str(_beside(path)))}"
        )
    if path.suffix.lower() not in _JSON_LINES and text and not text.startswith(b"{"):
        shown = text[:_SHOWN].decode(errors="replace")
        raise DataError(
            f"{path}: begins with {shown!r}, which is no JSON Lines; expected an object a line, such as "
            '{"text": "..."}. A table is saved as .csv, with commas and a header; an array as .npy.'
        )


def check_csv(path: Path) -> None:
    """Refuses a table that is saved in another way.

    Raises:
        DataError: It is UTF-16, a binary file, or separated by something else than commas.
    """
    header = _QUOTED.sub("", _start(path).decode(errors="replace")).partition("\n")[0]
    for separator, name in _SEPARATORS.items():
        if separator in header and "," not in header:
            raise DataError(f"{path}: is separated by {name}; expected commas. Save the table with commas.")


def _beside(path: Path) -> Path:
    """A file of JSON Lines that is not there yet: what is written must not be what is read, nor anything else."""
    place = path.with_suffix(".jsonl")
    while place.exists() or place.is_symlink():
        place = place.with_suffix(".lines.jsonl")
    return place


def _start(path: Path) -> bytes:
    """A file's first bytes, without a byte-order mark."""
    with files.opened(path) as file:
        start = file.read(_START_BYTES)
    if start.startswith(_UTF16_MARKS):
        raise DataError(f"{path}: is UTF-16; expected UTF-8. Save it as UTF-8.")
    if b"\0" in start.partition(b"\n")[0]:
        raise DataError(
            f"{path}: holds zero bytes, as binary files and UTF-16 do; expected JSON Lines or CSV in UTF-8. "
            "Save it so, or an array as .npy."
        )
    return start.removeprefix(_UTF8_MARK)
