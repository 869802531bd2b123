"""Writing: the old or the new, never half, whatever the disk and the power do. Reading once is in tests/attacks."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign_files import snapshot

from edgepeft import store
from edgepeft.errors import DataError, StorageError

OLD = {"a": b"old a", "b": b"old b"}
NEW = {"a": b"new a", "b": b"new b", "sub/deeper/c": b"new c"}
CODES = {errno.ENOSPC: "Free some space", errno.EROFS: "read-only", errno.EIO: "Check the path"}


def _always(_: Path) -> bool:
    return True


def _failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _write_plainly(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(params=["exchange", "two renames"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of replacing a folder: where the file system can swap two names, and where it cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(store, "_exchange", lambda *_: False)
    return str(request.param)


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("content", [b"", b"new", memoryview(b"new"), b"x" * ((1 << 24) + 1)])
def test_a_file_holds_what_was_written(tmp_path: Path, before: bytes | None, content: bytes) -> None:
    """New or in the place of an old one, of any size; nothing else is left in the folder."""
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    store.write_file(path, content)
    assert snapshot(tmp_path) == {"file": bytes(content)}


def test_a_file_is_readable_by_who_the_umask_lets(tmp_path: Path) -> None:
    """A service under another user reads what the trainer wrote, if the administrator wants that."""
    before = os.umask(0o027)
    try:
        store.write_file(tmp_path / "file", b"")
        store.write_folder(tmp_path / "folder", {"a": b""}, replaceable=_always)
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "folder/a")]
    assert modes == [0o640, 0o750, 0o640]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take less than it is given; the rest follows."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    store.write_file(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_content_is_durable_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First fsync of the file, then the rename, then fsync of the folder: any other order can lose both contents."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        calls.append("sync folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "sync file")
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    store.write_file(tmp_path / "file", b"new")
    assert calls == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize(("number", "advice"), CODES.items(), ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
def test_a_refused_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, advice: str
) -> None:
    """A full disk, at any call: one line that says what to do, the old content, no litter."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, _failing(number))
    with pytest.raises(StorageError, match=f"{path}: cannot be written: .*{advice}.*nothing was changed"):
        store.write_file(path, b"new")
    monkeypatch.undo()
    assert snapshot(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
@pytest.mark.usefixtures("either_way")
def test_a_refused_write_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, either_way: str
) -> None:
    """The same for a folder: all of the old files, none of the new."""
    if call == "rename" and either_way == "exchange":
        monkeypatch.setattr(store, "_exchange", _failing(errno.ENOSPC))
    _write_plainly(tmp_path / "folder", OLD)
    monkeypatch.setattr(os, call, _failing(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"No space left on device\. Free some space.*nothing was changed"):
        store.write_folder(tmp_path / "folder", NEW, replaceable=_always)
    monkeypatch.undo()
    assert snapshot(tmp_path / "folder") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_second_rename_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where names cannot be swapped: the old folder was moved aside already, and comes back."""
    monkeypatch.setattr(store, "_exchange", lambda *_: False)
    _write_plainly(tmp_path / "folder", OLD)
    rename, done = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        done.append(source)
        if len(done) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(StorageError, match="Input/output error"):
        store.write_folder(tmp_path / "folder", NEW, replaceable=_always)
    assert snapshot(tmp_path) == {"folder": None} | {
        f"folder/{name}": content for name, content in OLD.items()
    }


def test_a_rename_that_may_not_last_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the folder's fsync failed: the new content is there, and the message does not say otherwise."""
    monkeypatch.setattr(store, "sync_folder", _failing(errno.EIO))
    with pytest.raises(StorageError, match="the new content is in place, but a power cut now could lose it"):
        store.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_system_without_folder_sync_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems know no fsync of folders: there is nothing more to do, and no reason to fail."""
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    store.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.usefixtures("either_way")
def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    """Exactly the new files, at any depth; the old ones are gone, and nothing is left beside it."""
    _write_plainly(tmp_path / "folder", OLD | {"only-old": b""})
    store.write_folder(tmp_path / "folder", NEW, replaceable=_always)
    files = {name: content for name, content in snapshot(tmp_path / "folder").items() if content is not None}
    assert files == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_something_else_is_not_replaced(tmp_path: Path, kind: str) -> None:
    """What the caller does not recognize stays; a link stays too, for its target is somebody else's."""
    if kind == "file":
        (tmp_path / "there").write_bytes(b"mine")
    else:
        _write_plainly(tmp_path / ("there" if kind == "folder" else "target"), {"thesis.txt": b"mine"})
    if kind == "link":
        (tmp_path / "there").symlink_to("target")
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match=r"there: exists and is something else\. Give another folder"):
        store.write_folder(tmp_path / "there", NEW, replaceable=lambda _: kind == "link")
    assert snapshot(tmp_path) == before


def test_missing_folders_are_made_and_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs/today/alice` just works; if the disk is full, no empty folders tell of the attempt."""
    path = tmp_path / "runs/today/alice"
    monkeypatch.setattr(os, "write", _failing(errno.ENOSPC))
    with pytest.raises(StorageError, match="No space left"):
        store.write_folder(path, OLD, replaceable=_always)
    with pytest.raises(StorageError, match="No space left"):
        store.write_file(path, b"x")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    store.write_folder(path, OLD, replaceable=_always)
    assert snapshot(path) == OLD


def test_what_others_wrote_into_a_new_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries that fill the folder do not sync; the folder does not get its name before they are."""
    synced: set[str] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with store.new_folder(tmp_path / "folder", replaceable=_always) as folder:
        _write_plainly(folder, NEW)
    assert synced > {"a", "b", "c", "sub", "deeper", tmp_path.name}


def test_an_error_while_filling_leaves_nothing(tmp_path: Path) -> None:
    """The caller's own error comes through as it is, and the half-filled folder is gone."""

    def fill_badly() -> None:
        with store.new_folder(tmp_path / "f", replaceable=_always) as folder:
            _write_plainly(folder, OLD)
            raise DataError("mine")

    with pytest.raises(DataError, match="mine"):
        fill_badly()
    assert not list(tmp_path.iterdir())


def test_a_path_with_nul_is_refused(tmp_path: Path) -> None:
    """A path that no system call takes gives the typed error too."""
    with pytest.raises(StorageError, match=r"a path cannot hold NUL"):
        store.write_file(tmp_path / "a\0b", b"")


# A power cut: the process ends before its n-th change to the disk, for every n, and what is there must be whole.

PROGRAM = """
import os, sys
from pathlib import Path
from edgepeft import store

where, kind, way = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
CHANGES = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
if way == "two renames":
    store._exchange = lambda *_: False

def cut_before(n):
    left = [n]
    def counted(function):
        def call(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return function(*args, **options)
        return call
    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    store._exchange = counted(store._exchange)

n = 0
while True:
    place = where / str(n)
    place.mkdir()
    if kind == "file":
        (place / "target").write_bytes(b"old")
    else:
        (place / "target").mkdir()
        for name in "ab":
            (place / "target" / name).write_bytes(b"old")
    child = os.fork()
    if child == 0:
        cut_before(n)
        if kind == "file":
            store.write_file(place / "target", b"new")
        else:
            files = {"a": b"new", "b": b"new"}
            store.write_folder(place / "target", files, replaceable=lambda _: True)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    n += 1
"""


def _after_power_cuts(where: Path, kind: str, way: str) -> Iterator[Path]:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(where), kind, way]
    subprocess.run(command, check=True, timeout=60)
    states = sorted(where.iterdir(), key=lambda path: int(path.name))
    assert len(states) > 4
    yield from states


def test_a_power_cut_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """At no moment is a file empty, half written or absent."""
    contents = [(place / "target").read_bytes() for place in _after_power_cuts(tmp_path, "file", "exchange")]
    assert contents == sorted(contents, reverse=True)
    assert set(contents) == {b"old", b"new"}


def test_a_power_cut_leaves_the_old_folder_or_the_new(tmp_path: Path) -> None:
    """At no moment is a folder absent or of two versions, where names can be swapped in one step."""
    if not store._exchange(*_two_folders(tmp_path / "probe")):
        pytest.skip("this file system cannot swap two names in one step")
    (tmp_path / "cuts").mkdir()
    seen = [
        snapshot(place / "target") for place in _after_power_cuts(tmp_path / "cuts", "folder", "exchange")
    ]
    old, new = {"a": b"old", "b": b"old"}, {"a": b"new", "b": b"new"}
    assert all(state in (old, new) for state in seen)
    assert seen[0] == old
    assert seen[-1] == new


def test_a_power_cut_never_loses_the_old_folder(tmp_path: Path) -> None:
    """Where names cannot be swapped, the old or the new is whole at every moment, if need be beside its name."""
    for place in _after_power_cuts(tmp_path, "folder", "two renames"):
        states = [snapshot(folder) for folder in place.iterdir()]
        assert {"a": b"old", "b": b"old"} in states or {"a": b"new", "b": b"new"} in states
        if (place / "target").exists():
            assert len(set(snapshot(place / "target").values())) == 1


def _two_folders(place: Path) -> tuple[Path, Path]:
    (place / "one").mkdir(parents=True)
    (place / "two").mkdir()
    return place / "one", place / "two"


# A disk that is really full.


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system of our own needs the right to mount: {error}")
    yield place
    subprocess.run(["/bin/umount", str(place)], check=True)


def test_a_full_disk_leaves_what_was_there(tiny_disk: Path) -> None:
    """More than fits is refused in one line; the older file and folder are whole, and there is room again."""
    store.write_file(tiny_disk / "file", b"old")
    store.write_folder(tiny_disk / "folder", OLD, replaceable=_always)
    before = snapshot(tiny_disk)
    with pytest.raises(
        StorageError, match=r"file: cannot be written: No space left on device\. Free some space"
    ):
        store.write_file(tiny_disk / "file", b"x" * (1 << 17))
    with pytest.raises(StorageError, match=r"No space left on device\. Free some space"):
        store.write_folder(tiny_disk / "folder", {"a": b"", "b": b"x" * (1 << 17)}, replaceable=_always)
    assert snapshot(tiny_disk) == before
    store.write_file(tiny_disk / "file", b"x" * (1 << 14))


# What a power cut leaves.


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


_HEX = "0123456789abcdef"


def _left_by_a_power_cut(folder: Path, name: str = "run") -> Path:
    """The temporary file of a writer that is dead."""
    left = folder / f".{name}.{_HEX}.edgepeft-tmp"
    left.write_bytes(b"half")
    return left


def test_what_a_power_cut_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """Only after the new content is in place, and only of the same file."""
    left, other = _left_by_a_power_cut(tmp_path), _left_by_a_power_cut(tmp_path, "walk")
    store.write_file(tmp_path / "run", b"new")
    assert not left.exists()
    assert other.exists()
    assert (tmp_path / "run").read_bytes() == b"new"


def test_what_a_power_cut_left_stays_if_the_write_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may still want it."""
    left = _left_by_a_power_cut(tmp_path)
    monkeypatch.setattr(os, "write", _failing(errno.ENOSPC))
    with pytest.raises(StorageError):
        store.write_file(tmp_path / "run", b"new")
    assert [path.name for path in tmp_path.iterdir()] == [left.name]


@pytest.mark.parametrize(
    "name",
    [
        ".run.20251127",
        f".run.{_HEX}",
        f".run.{_HEX}0.edgepeft-tmp",
        f"run.{_HEX}.edgepeft-tmp",
        f".run.x.{_HEX}.edgepeft-tmp",
    ],
)
def test_files_of_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    """Exactly the names that this program gives."""
    (tmp_path / name).write_bytes(b"mine")
    store.write_file(tmp_path / "run", b"new")
    assert (tmp_path / name).read_bytes() == b"mine"


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    """A link, a pipe and a folder of such a name are nobody's temporary files."""
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / f".run.1{_HEX[1:]}.edgepeft-tmp").symlink_to("target")
    os.mkfifo(tmp_path / f".run.2{_HEX[1:]}.edgepeft-tmp")
    (tmp_path / f".run.3{_HEX[1:]}.edgepeft-tmp").mkdir()
    before = _names(tmp_path)
    store.write_file(tmp_path / "run", b"new")
    assert _names(tmp_path) == sorted([*before, "run"])


def test_a_live_writers_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that write the same file at once both succeed; the later one wins."""
    real, inside = os.fsync, []

    def another_first(descriptor: int) -> None:
        if not inside:
            inside.append(True)
            store.write_file(tmp_path / "run", b"another's")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", another_first)
    store.write_file(tmp_path / "run", b"ours")
    assert (tmp_path / "run").read_bytes() == b"ours"
    assert _names(tmp_path) == ["run"]


def test_a_cleaner_that_is_faster_than_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file that is taken away before it could be locked is made again."""
    real, made = os.open, []

    def taken_away(path: object, flags: int, *rest: object, **options: object) -> int:
        descriptor = real(path, flags, *rest, **options)
        if flags & os.O_CREAT and not made:
            made.append(path)
            Path(str(path)).unlink()
        return descriptor

    monkeypatch.setattr(os, "open", taken_away)
    store.write_file(tmp_path / "run", b"new")
    assert made
    assert (tmp_path / "run").read_bytes() == b"new"
