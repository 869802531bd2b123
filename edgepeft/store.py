"""Reading foreign files once, and writing files so that a power cut leaves the old or the new, never half."""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from edgepeft.errors import ArgumentError, EdgepeftError, StorageError

#: Bytes per read or write call.
_CHUNK_BYTES = 1 << 24

#: Buffers start at a multiple of this many bytes, a cache line: views of them are as aligned as their offsets.
_ALIGNMENT_BYTES = 64

# No link is followed; a pipe without a writer does not block; a terminal does not become ours.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}

_ADVICE = {
    errno.ENOSPC: "Free some space, or write to another disk",
    errno.EDQUOT: "Free some space, or write to another disk",
    errno.EROFS: "The disk is read-only: write elsewhere",
    errno.EACCES: "Write to a folder that you own",
    errno.EPERM: "Write to a folder that you own",
}

#: Random bytes in a name that is made up.
_TOKEN_BYTES = 8
#: How the names of temporary files and folders end, which are cleared away: nobody calls a backup so.
_TEMPORARY = "edgepeft-tmp"
#: How the name of a folder ends that makes way for its successor; it is nobody's to clear away.
_ASIDE = "edgepeft-old"

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

MakeError = Callable[[str], EdgepeftError]


def folder_path(name: str, value: object) -> Path:
    """A folder's path as an argument gives it.

    Raises:
        ArgumentError: It is no path.
    """
    try:
        return Path(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ArgumentError(f"{name} is {repr(value)[:80]}; expected the path of its folder.") from error


def read_once(path: Path, max_bytes: int, error: MakeError) -> memoryview:
    """Reads a regular file into one buffer of its own; links, pipes and devices are refused.

    Args:
        path: The file.
        max_bytes: Most bytes that it may have.
        error: The error to raise.

    Returns:
        The content, read-only, starting at a multiple of 64 bytes.

    Raises:
        EdgepeftError: Of the given type: not a regular file, too large, or changed while it was read.
    """
    with _opened(str(path), _READ, str(path), error) as descriptor:
        return _content(descriptor, str(path), max_bytes, error)


class FolderReader:
    """Reads the files of one folder and of no other: it is opened once, and no link inside it is followed.

    Args:
        path: The folder; it may itself be reached through a link.
        error: The error to raise.

    Raises:
        EdgepeftError: Of the given type, if it is not a folder.
    """

    def __init__(self, path: Path, error: MakeError) -> None:
        self.path = path
        self._error = error
        try:
            self._descriptor = os.open(path, _READ_FOLDER)
        except (OSError, ValueError) as cause:
            raise error(f"{path}: expected a folder: {_reason(cause)}.") from cause

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, inside: str, max_bytes: int) -> memoryview:
        """Reads a file by its path inside the folder, as `read_once` does.

        Raises:
            EdgepeftError: As `read_once`; also if a folder on the way is a link.
        """
        where = f"{self.path}/{inside}"
        *folders, name = inside.split("/")
        with (
            self._folder(folders) as parent,
            _opened(name, _READ, where, self._error, parent) as descriptor,
        ):
            return _content(descriptor, where, max_bytes, self._error)

    def has(self, name: str) -> bool:
        """Whether the folder itself has something of that name; links are not followed."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def entries(self, inside: str = "") -> Generator[tuple[str, bool], None, None]:
        """Paths of what a folder inside this one holds, each with whether it is a folder, in no order.

        Raises:
            EdgepeftError: Of the given type, if it is missing, no folder or a link.
        """
        with self._folder(inside.split("/") if inside else []) as folder, os.scandir(folder) as found:
            for entry in found:
                path = f"{inside}/{entry.name}" if inside else entry.name
                yield path, entry.is_dir(follow_symlinks=False)

    @contextmanager
    def _folder(self, names: list[str]) -> Iterator[int]:
        """Goes down one folder at a time: only so is no link on the way followed."""
        with ExitStack() as opened:
            folder = self._descriptor
            for name in names:
                where = f"{self.path}/{'/'.join(names)}"
                flags = _READ_FOLDER | os.O_NOFOLLOW
                folder = opened.enter_context(_opened(name, flags, where, self._error, folder))
            yield folder


@contextmanager
def _opened(name: str, flags: int, where: str, error: MakeError, folder: int | None = None) -> Iterator[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except (OSError, ValueError) as cause:
        raise error(f"{where}: cannot be opened: {_refused(name, flags, folder, cause)}") from cause
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refused(name: str, flags: int, folder: int | None, cause: Exception) -> str:
    """Says why a file could not be opened; Linux has one number for a link and for a loop of links."""
    wanted = "folder" if flags & os.O_DIRECTORY else "regular file"
    with suppress(OSError, ValueError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return f"it is a symbolic link, which is not followed. Put the {wanted} itself there."
        if stat.S_IFMT(mode) in _KINDS:
            return f"it is a {_KINDS[stat.S_IFMT(mode)]}. Expected a {wanted}."
    return f"{_reason(cause)}. Expected a {wanted}."


def _reason(cause: Exception) -> str:
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause)


def _content(descriptor: int, where: str, max_bytes: int, error: MakeError) -> memoryview:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{where}: expected a regular file, got a {_KINDS[stat.S_IFMT(status.st_mode)]}.")
        size = status.st_size
        if size > max_bytes:
            raise error(
                f"{where}: expected at most {max_bytes:,} bytes, got {size:,}. Check or copy it again."
            )
        view = _aligned(size)
        filled = 0
        while filled < size:
            count = os.readv(descriptor, [view[filled : filled + _CHUNK_BYTES]])
            if count == 0:
                raise error(f"{where}: became shorter while it was read. Copy it again.")
            filled += count
        if os.read(descriptor, 1):
            raise error(f"{where}: became longer while it was read. Copy it again.")
    except OSError as cause:
        raise error(f"{where}: cannot be read: {_reason(cause)}. Check the disk.") from cause
    except MemoryError as cause:
        raise error(
            f"{where}: no memory for its {size:,} bytes. Free some, or use a smaller file."
        ) from cause
    return view.toreadonly()


def _aligned(size: int) -> memoryview:
    block = np.empty(size + _ALIGNMENT_BYTES - 1, dtype=np.uint8)
    start = -block.ctypes.data % _ALIGNMENT_BYTES
    return block[start : start + size].data


def sync_folder(folder: Path) -> None:
    """Makes what was created, renamed or removed in a folder durable, where the file system knows how."""
    descriptor = os.open(folder, _READ_FOLDER)
    try:
        os.fsync(descriptor)
    except OSError as cause:
        if cause.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Replaces a file's content, durably and at once; missing folders are made.

    What power cuts left of earlier writes of the same file is removed.

    Args:
        path: The file.
        content: What it is to hold, whole or in pieces.

    Raises:
        StorageError: The file system refused; the old content is untouched.
    """
    with refusals(path), _parents(path.parent), _temporary(path) as (temporary, descriptor):
        _write(descriptor, content)
        temporary.replace(path)
    with refusals(path, _NOT_DURABLE):
        sync_folder(path.parent)
    _remove_stale(path, folders=False)


def check_writable(path: Path) -> None:
    """Refuses a place that cannot be written before work is done for it; leaves nothing behind.

    Raises:
        StorageError: The file system refuses a new file or folder of that name.
    """
    with refusals(path):
        above = next(place for place in path.absolute().parents if place.exists() or place.is_symlink())
        probe = _beside(above / path.name)
        probe.mkdir()
        with suppress(FileNotFoundError):  # somebody who cleans up was faster
            probe.rmdir()


def write_folder(
    path: Path, files: Mapping[str, bytes | memoryview], *, replaceable: Callable[[Path], bool]
) -> None:
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

    What was left of earlier ones, whose writers were killed, is removed then.

    Args:
        path: The folder; missing folders above it are made.
        replaceable: Whether an existing folder may be given up. It is replaced in one step (Linux's renameat2).
            Where the file system lacks that, a power cut between two renames can leave both the old and the
            new folder whole, under hidden names beside `path`; the old one's ends in "edgepeft-old", and stays
            until somebody moves or removes it.

    Raises:
        StorageError: The file system refused, or `path` exists and may not be replaced; nothing was changed.
    """
    path = path.absolute()
    with refusals(path), _parents(path.parent):
        if path.is_symlink() or (path.exists() and not replaceable(path)):
            raise StorageError(
                f"{path}: exists and is something else. Give another folder, or remove it first."
            )
        with _temporary_folder(path) as temporary:
            yield temporary
            _sync_tree(temporary)
            _put(temporary, path)
            # The old folder goes only once the new one is sure to stay.
            with refusals(path, _NOT_DURABLE):
                sync_folder(path.parent)
    _remove_stale(path, folders=True)


def _beside(path: Path, ending: str = _TEMPORARY) -> Path:
    """A name that nobody has, in the same folder: only there is a rename one step."""
    return path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.{ending}")


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside another, which goes again if the block fails; a lock says that its writer lives."""
    while True:
        place = _beside(path)
        descriptor = os.open(place, _CREATE, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # somebody who cleans up was faster than the lock
    try:
        yield place, descriptor
    except BaseException:
        with suppress(OSError):
            place.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside another, which goes again when the block ends; a lock says that its writer lives."""
    with ExitStack() as opened:
        while True:
            place = _beside(path)
            place.mkdir()
            opened.callback(shutil.rmtree, place, ignore_errors=True)
            with suppress(OSError):
                descriptor = os.open(place, _READ_FOLDER)
                opened.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if place.exists():  # else somebody who cleans up was faster than the lock
                break
        yield place


def _write(descriptor: int, content: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    for piece in [content] if isinstance(content, bytes | memoryview) else content:
        rest = memoryview(piece).cast("B")
        while rest:
            rest = rest[os.write(descriptor, rest[:_CHUNK_BYTES]) :]
    os.fsync(descriptor)


def _remove_stale(path: Path, *, folders: bool) -> None:
    """Removes temporary files of a file, or folders of a folder, whose writers are dead: nobody holds their lock."""
    ours = re.compile(re.escape(f".{path.name}.") + rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.{_TEMPORARY}")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            kind = entry.is_dir if folders else entry.is_file
            if ours.fullmatch(entry.name) and kind(follow_symlinks=False):
                _remove_unlocked(entry.path, folder=folders)


def _remove_unlocked(path: str, *, folder: bool) -> None:
    with suppress(OSError):
        descriptor = os.open(path, _READ)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder:
                shutil.rmtree(path)
            else:
                os.unlink(path)  # noqa: PTH108 - beside the other calls of os
        finally:
            os.close(descriptor)


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """Makes missing folders for the block, and takes them away again if it fails."""
    made: list[Path] = []
    try:
        for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
            missing.mkdir(exist_ok=True)
            made.append(missing)
            sync_folder(missing.parent)
        yield
    except BaseException:
        for empty in reversed(made):
            with suppress(OSError):
                empty.rmdir()
        raise


def _sync_tree(folder: Path) -> None:
    """Syncs whatever is in a folder, whoever wrote it, before the folder gets its name."""
    for root, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(Path(root) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(root))


def _put(new: Path, target: Path) -> None:
    """Gives the folder `new` the name `target`; a folder that was there ends up as `new`."""
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):
        aside = _beside(target, _ASIDE)
        target.rename(aside)
        try:
            new.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        aside.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; `False` where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


_UNCHANGED = "nothing was changed"
_NOT_DURABLE = "the new content is in place, but a power cut now could lose it"


@contextmanager
def refusals(path: Path, outcome: str = _UNCHANGED) -> Iterator[None]:
    """Turns the operating system's refusal of a write into one line that says what to do.

    Raises:
        StorageError: The file system refused something in the block.
    """
    if "\0" in str(path):
        raise StorageError(f"{str(path)!r}: a path cannot hold NUL. Check the path; {outcome}.")
    try:
        yield
    except OSError as error:
        todo = _ADVICE.get(error.errno or 0, "Check the path")
        raise StorageError(f"{path}: cannot be written: {_reason(error)}. {todo}; {outcome}.") from error
