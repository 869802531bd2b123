"""Reading foreign files once, and writing files so that a power cut leaves the old or the new, never half."""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgepeft.errors import EdgepeftError, StorageError

_CHUNK_BYTES = 1 << 24
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


def read_once(path: Path, max_bytes: int, error: Callable[[str], EdgepeftError]) -> memoryview:
    """Reads a regular file into one buffer of its own; links, pipes and devices are refused.

    Args:
        path: The file.
        max_bytes: Most bytes that it may have.
        error: The error to raise.

    Returns:
        The content, read-only, its start aligned as numpy aligns large arrays (16 bytes at least).

    Raises:
        EdgepeftError: Of the given type: not a regular file, too large, or changed while it was read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as cause:
        reason = "a symbolic link, which is not followed" if cause.errno == errno.ELOOP else cause.strerror
        raise error(f"{path}: cannot be opened: {reason}. Expected a regular file.") from cause
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: expected a regular file, got a {_kind(status.st_mode)}.")
        if status.st_size > max_bytes:
            raise error(f"{path}: expected at most {max_bytes:,} bytes, got {status.st_size:,}.")
        buffer = np.empty(status.st_size, dtype=np.uint8)
        view = memoryview(buffer)
        filled = 0
        while filled < status.st_size:
            count = os.readv(descriptor, [view[filled : filled + _CHUNK_BYTES]])
            if count == 0:
                raise error(f"{path}: became shorter while it was read. Copy it again.")
            filled += count
        if os.read(descriptor, 1):
            raise error(f"{path}: became longer while it was read. Copy it again.")
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror}.") from cause
    finally:
        os.close(descriptor)
    return view.toreadonly()


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for test, name in kinds.items() if test(mode)), "device")


def sha256(content: bytes | memoryview) -> str:
    """The SHA-256 of a buffer, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file's content, durably and at once.

    Raises:
        StorageError: The file system refused; the old content is untouched.
    """
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, _FILE_MODE)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105 - its failure must reach the clean-up below
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes | memoryview], *, replaceable: Callable[[Path], bool]) -> None:
    """Writes a folder of files, durably and at once.

    Args:
        path: The folder.
        files: Contents by path inside the folder.
        replaceable: Whether an existing folder may be given up.

    Raises:
        StorageError: The file system refused, or the folder may not be replaced; what was there is untouched.
    """
    with new_folder(path, replaceable=replaceable) as temporary:
        for name, content in files.items():
            write_file(temporary / name, content)


@contextmanager
def new_folder(path: Path, *, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Gives a folder to fill, which takes the place of `path` when the block ends without an error.

    Raises:
        StorageError: The file system refused, or `path` exists and may not be replaced.
    """
    path = path.absolute()
    with _refusals(path):
        if path.exists() and not replaceable(path):
            raise StorageError(f"{path}: exists and is something else. Give another folder, or remove it first.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary.chmod(_FOLDER_MODE)
            yield temporary
            sync_folder(temporary)
            _swap(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(path.parent)


def _swap(new: Path, target: Path) -> None:
    """Puts `new` in the place of `target`; an old folder is moved aside first and back if that fails."""
    if not target.exists():
        new.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(aside / "old")
    try:
        new.rename(target)
    except BaseException:
        (aside / "old").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal of a write into one line that says what to do."""
    advice = {
        errno.ENOSPC: "Free some space, or write to another disk",
        errno.EDQUOT: "Free some space, or write to another disk",
        errno.EROFS: "The disk is read-only: write elsewhere",
        errno.EACCES: "Write to a folder that you own",
        errno.EPERM: "Write to a folder that you own",
    }
    try:
        yield
    except OSError as error:
        todo = advice.get(error.errno or 0, "Check the path")
        raise StorageError(f"{path}: cannot be written: {error.strerror}. {todo}; nothing was changed.") from error
