"""Files of a user's data, opened so that nothing else is read in their place."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from edgepeft.errors import DataError


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe that nobody writes to would keep a plain `open` waiting for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Opens a regular file for reading; a link to one is followed, since the data is the user's own.

    Raises:
        DataError: It cannot be read, or is a pipe, a device or a folder.
    """
    with refusals(path), open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DataError(f"{path}: expected a regular file. Save the data to one first.")
        yield file


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to read into one line."""
    try:
        yield
    except OSError as error:
        todo = "Check its permissions" if isinstance(error, PermissionError) else "Check the path"
        raise DataError(f"{path}: cannot be read: {error.strerror or error}. {todo}.") from error
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise DataError(f"{str(path)!r}: a path cannot hold NUL. Check the path.") from error


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; what is hidden is passed over.

    Raises:
        DataError: The folder cannot be read.
    """
    with refusals(folder), os.scandir(folder) as found:
        return sorted(
            (entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name
        )


def signature(file: BufferedReader) -> tuple[int, int, int]:
    """What changes when a file is changed: its inode, its size and when it was last written."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def sha256(path: Path) -> bytes:
    """SHA-256 of a file, read piece by piece.

    Raises:
        DataError: It cannot be read.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").digest()
