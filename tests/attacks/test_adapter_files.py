"""Hostile adapter files: each is refused with a typed error for its own reason, in bounded time and memory."""

import io
import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foreign_files import CONFIG, LORA_A, row, safetensors_file, snapshot, sound_tensors, write_adapter
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepeft import limits, names, store, tensors
from edgepeft.adapter import Adapter
from edgepeft.errors import AdapterError

SOUND = tensors.serialize(sound_tensors(), {"format": "pt"})
FOUR = b"\0" * 4
#: Far beyond what any refusal takes; a blocked open or an endless read shows as this.
TIMEOUT_SECONDS = 20


@pytest.fixture(autouse=True)
def in_bounded_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _one(**changes: object) -> bytes:
    """A file of one tensor, of which something is changed."""
    return safetensors_file({"a": row([1], 0, 4) | changes}, FOUR)


def _archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps({"a": 1}))
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a"))
    elif kind == "npz":
        np.savez(buffer, a=np.zeros(3, np.float32))
    else:
        pickle.dump({"a": np.zeros(3, np.float32)}, buffer)
    return buffer.getvalue()


LENGTH = {
    "empty": (b"", "expected a safetensors file, got 0 bytes"),
    "seven bytes": (SOUND[:7], "expected a safetensors file, got 7 bytes"),
    "header of length 0": (safetensors_file("", FOUR), "header length 0 is impossible"),
    "header of 2^63": (
        safetensors_file({}, length=1 << 63),
        "header length 9,223,372,036,854,775,808 is imp",
    ),
    "header of 2^64-1": (
        safetensors_file({}, length=(1 << 64) - 1),
        "header length 18,446,744,073,709,551,615",
    ),
    "header of 100,000,001": (
        safetensors_file({}, length=100_000_001),
        "header length 100,000,001 is impossible",
    ),
    "header longer than the file": (safetensors_file({}, length=3), "header length 3 is impossible"),
    "one byte short": (SOUND[:-1], "Cut off: copy it again"),
    "one byte too many": (SOUND + b"\0", "1 bytes follow the last tensor"),
    "a zip appended": (SOUND + _archive("zip"), "bytes follow the last tensor"),
}
TEXT = {
    "not UTF-8": (safetensors_file(b'{"\xff": 1}'), "expected UTF-8 text, got other bytes at 2"),
    "not JSON": (safetensors_file("{a: 1}"), "expected JSON: Expecting property name"),
    "a list": (safetensors_file("[1, 2]"), r"must begin with '\{', got b'\['"),
    "garbage after it": (safetensors_file("{} x"), "expected JSON: Extra data"),
    "a second object": (safetensors_file("{}{}"), "expected JSON: Extra data"),
    "byte-order mark": (safetensors_file(b"\xef\xbb\xbf{}"), r"must begin with '\{', got b'\\xef'"),
    "a space before it": (safetensors_file(" {}"), r"must begin with '\{', got b' '"),
    "nested brackets": (safetensors_file('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deeply"),
    "lone surrogate in metadata": (
        safetensors_file('{"__metadata__": {"a": "\\ud800"}}'),
        "got half a surrogate pair",
    ),
    "lone surrogate in a name": (
        safetensors_file('{"\\udfff": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', FOUR),
        "got half a surrogate pair",
    ),
    "NaN": (safetensors_file('{"a": NaN}'), "NaN is no number in JSON"),
    "1e999": (safetensors_file('{"a": 1e999}'), "1e999 is too large a number"),
    "5,000 digits": (safetensors_file('{"a": ' + "1" * 5000 + "}"), "expected JSON: Exceeds the limit"),
}
ROW = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
DUPLICATES = {
    "the same tensor twice": (
        safetensors_file(f'{{"a": {ROW}, "a": {ROW}}}', FOUR),
        "key 'a' stands there twice",
    ),
    "the same tensor, once escaped": (
        safetensors_file(f'{{"a": {ROW}, "\\u0061": {ROW}}}', FOUR),
        "key 'a' stands there twice",
    ),
    "a metadata key twice": (
        safetensors_file('{"__metadata__": {"format": "pt", "format": "np"}}'),
        "key 'format' stands there twice",
    ),
    "metadata twice": (
        safetensors_file('{"__metadata__": {}, "__metadata__": {}}'),
        "key '__metadata__' stands there twice",
    ),
    "a field twice": (
        safetensors_file(
            '{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', FOUR
        ),
        "key 'dtype' stands there twice",
    ),
}
TYPES = {
    "metadata not text": (safetensors_file({"__metadata__": {"a": 1}}), "not a mapping of text to text"),
    "metadata a list": (safetensors_file({"__metadata__": []}), "not a mapping of text to text"),
    "metadata null": (safetensors_file({"__metadata__": None}), "not a mapping of text to text"),
    "unknown dtype": (_one(dtype="F4096"), "tensor 'a' has dtype 'F4096'; expected one of"),
    "dtype a number": (_one(dtype=32), "tensor 'a' has dtype '32'; expected one of"),
    "bfloat16": (_one(dtype="BF16", shape=[2]), "tensor 'a' has dtype 'BF16'; expected one of"),
    "shape negative": (_one(shape=[-1]), r"impossible shape \[-1\]"),
    "shape float": (_one(shape=[1.0]), r"impossible shape \[1.0\]"),
    "shape bool": (_one(shape=[True]), r"impossible shape \[True\]"),
    "shape text": (_one(shape="1"), "impossible shape 1"),
    "offset float": (_one(data_offsets=[0, 4.0]), r"impossible data_offsets \[0, 4.0\]"),
    "offset negative": (_one(data_offsets=[-4, 0]), r"impossible data_offsets \[-4, 0\]"),
    "offsets reversed": (_one(data_offsets=[4, 0]), r"needs 4 bytes, its data_offsets say \[4, 0\]"),
    "offset huge": (_one(data_offsets=[1 << 70, (1 << 70) + 4]), "leaves a hole before it"),
    "offset out of the file": (_one(shape=[2], data_offsets=[0, 8]), "Cut off: copy it again"),
    "three offsets": (_one(data_offsets=[0, 2, 4]), r"impossible data_offsets \[0, 2, 4\]"),
    "a field missing": (
        safetensors_file({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
        "does not have exactly",
    ),
    "an unknown field": (_one(stride=[1]), "does not have exactly dtype, shape and data_offsets"),
    "a row that is no object": (safetensors_file({"a": 1}), "does not have exactly"),
}
OVERFLOW = {
    "2^32 x 2^32": (_one(shape=[1 << 32, 1 << 32]), "impossible shape"),
    "2^31 x 2^31 x 2^31": (_one(shape=[1 << 31] * 3), f"needs {4 << 93} bytes"),
    "2^63 x 2 x 8, wraps to 0": (_one(shape=[1 << 63, 2, 8], data_offsets=[0, 0]), "impossible shape"),
    "2^31 x 2^31 x 4, wraps to 0": (
        safetensors_file({"a": row([1 << 31, 1 << 31, 4], 0, 0)}),
        f"needs {4 << 64} bytes",
    ),
    "shape and offsets disagree": (_one(shape=[2]), "needs 8 bytes, its data_offsets say"),
}
LAYOUT = {
    "64 tensors over one buffer": (
        safetensors_file({f"t{i}": row([1], 0, 4) for i in range(64)}, FOUR),
        "tensor 't1' overlaps another",
    ),
    "partial overlap": (
        safetensors_file({"a": row([2], 0, 8), "b": row([2], 4, 12)}, FOUR * 3),
        "'b' overlaps",
    ),
    "a hole": (
        safetensors_file({"a": row([1], 0, 4), "b": row([1], 8, 12)}, FOUR * 3),
        "leaves a hole before it",
    ),
    "a hole in front": (safetensors_file({"a": row([1], 4, 8)}, FOUR * 2), "leaves a hole before it"),
}
RESOURCES = {
    "100,000 empty tensors": (
        safetensors_file({f"{i}": row([0], 0, 0) for i in range(100_000)}),
        "at most 20,000 tensors, got 100,000",
    ),
    "1 MB of metadata": (
        safetensors_file({"__metadata__": {"a": "x" * 1_000_000}}),
        "at most 524,288 bytes of metadata, got 1,000,001",
    ),
    "10,000 dimensions": (_one(shape=[1] * 10_000), "has an impossible shape"),
    "2^62 x 0": (safetensors_file({"a": row([1 << 62, 0], 0, 0)}), "has an impossible shape"),
    "a header over the limit": (
        safetensors_file(b"{" + b" " * limits.MAX_HEADER_BYTES + b"}"),
        r"is impossible for a file of .* \(at most 8,388,608\)",
    ),
}
NAMES = {
    "..": ("../../etc/passwd", "is no name for a tensor"),
    "dots inside": ("a..b", "is no name for a tensor"),
    "absolute": ("/etc/passwd", "is no name for a tensor"),
    "backslash": ("a\\b", "is no name for a tensor"),
    "NUL": ("a\0b", r"'a\\x00b' is no name for a tensor"),
    "newline": ("a\n", "is no name for a tensor"),
    "look-alike letter": (LORA_A.replace("a", "\N{CYRILLIC SMALL LETTER A}", 1), "is no name for a tensor"),
    "zero-width space": ("a\N{ZERO WIDTH SPACE}", "is no name for a tensor"),
    "terminal escape": ("\x1b[2J", r"'\\x1b\[2J' is no name for a tensor"),
    "empty": ("", "'' is no name for a tensor"),
    "513 letters": ("a" * 513, "is no name for a tensor"),
}
CONTAINERS = {
    "pickle": (_archive("pickle"), "Not a safetensors file"),
    "zip": (_archive("zip"), "Not a safetensors file"),
    "npz": (_archive("npz"), "Not a safetensors file"),
    "tar": (_archive("tar"), "Not a safetensors file"),
}
FILES = (
    {f"length: {name}": case for name, case in LENGTH.items()}
    | {f"text: {name}": case for name, case in TEXT.items()}
    | {f"duplicate: {name}": case for name, case in DUPLICATES.items()}
    | {f"type: {name}": case for name, case in TYPES.items()}
    | {f"overflow: {name}": case for name, case in OVERFLOW.items()}
    | {f"layout: {name}": case for name, case in LAYOUT.items()}
    | {f"resources: {name}": case for name, case in RESOURCES.items()}
    | {
        f"name: {case}": (safetensors_file({name: row([1], 0, 4)}, FOUR), words)
        for case, (name, words) in NAMES.items()
    }
    | {f"container: {name}": case for name, case in CONTAINERS.items()}
)


def _refused(folder: Path, words: str) -> None:
    before = snapshot(folder)
    with pytest.raises(AdapterError, match=words):
        Adapter.load(folder)
    assert snapshot(folder) == before


def test_the_sound_file_is_accepted(tmp_path: Path) -> None:
    """What the cases below start from loads, so that each is refused for its own fault."""
    loaded = Adapter.load(write_adapter(tmp_path / "a", SOUND))
    assert set(loaded.tensors) == set(sound_tensors())
    assert Adapter.load(write_adapter(tmp_path / "b", _one())).tensors["a"].shape == (1,)


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_a_hostile_model_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Every row of the table is refused for its own reason, and the folder stays as it was."""
    _refused(write_adapter(tmp_path / "foreign", content), words)


CONFIGS = {
    "a list": (b"[]", "expected a JSON object, got a list"),
    "not JSON": (b"r = 8", "expected JSON"),
    "a key twice": (b'{"r": 8, "r": 16}', "key 'r' stands there twice"),
    "infinity": (b'{"lora_alpha": Infinity}', "Infinity is no number in JSON"),
    "not UTF-8": (b'{"\xff": 1}', "expected UTF-8"),
    "byte-order mark": (b"\xef\xbb\xbf{}", "expected JSON: Unexpected UTF-8 BOM"),
    "nested brackets": (b'{"r":' + b"[" * 100_000, "nested too deeply"),
    "pickle": (pickle.dumps({}), "expected UTF-8"),
    "2 MB": (b'{"a": "' + b"x" * (2 << 20) + b'"}', "expected at most 1,048,576 bytes, got 2,097,161"),
}


@pytest.mark.parametrize(("content", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_hostile_configuration_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """The configuration is as strict as the header: what it says, it says once."""
    _refused(write_adapter(tmp_path / "foreign", SOUND, content), words)


def test_a_base_id_that_is_none_is_refused(tmp_path: Path) -> None:
    """An adapter bound to something that cannot be a hash is malformed, not merely another's."""
    model = tensors.serialize(sound_tensors(), {"edgepeft.base_id": "A" * 64})
    _refused(write_adapter(tmp_path / "foreign", model), "expected 64 hexadecimal digits")


@pytest.fixture(params=[names.ADAPTER_CONFIG, names.ADAPTER_MODEL])
def absent(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One of the two files of an adapter, which is not there."""
    path = write_adapter(tmp_path / "foreign", SOUND) / str(request.param)
    path.unlink()
    return path


def test_a_missing_file_is_named(absent: Path) -> None:
    """The message says which file is not there."""
    _refused(absent.parent, f"{absent.name}: cannot be opened: No such file")


def test_a_symbolic_link_is_not_followed(absent: Path, tmp_path: Path) -> None:
    """A link to a sound file is refused all the same: it could point at anything tomorrow."""
    target = tmp_path / "elsewhere"
    target.write_bytes(SOUND if absent.name == names.ADAPTER_MODEL else json.dumps(CONFIG).encode())
    absent.symlink_to(target)
    _refused(absent.parent, f"{absent.name}: cannot be opened: it is a symbolic link, which is not followed")


def test_a_link_loop_is_refused(absent: Path) -> None:
    """A link to itself ends at once."""
    absent.symlink_to(absent.name)
    _refused(absent.parent, "it is a symbolic link")


def test_a_pipe_does_not_block(absent: Path) -> None:
    """A FIFO that nobody writes to is refused, not waited for."""
    os.mkfifo(absent)
    _refused_special(absent, "expected a regular file, got a pipe")


def test_a_folder_is_refused(absent: Path) -> None:
    """A folder in the place of a file is told as one."""
    absent.mkdir()
    _refused(absent.parent, "expected a regular file, got a folder")


def test_a_device_is_refused(tmp_path: Path) -> None:
    """An endless device is not read from."""
    folder = write_adapter(tmp_path / "foreign", SOUND)
    with pytest.raises(AdapterError, match="expected a regular file, got a device"):
        store.read_once(Path("/dev/zero"), limits.MAX_ADAPTER_BYTES, AdapterError)
    try:
        (folder / names.ADAPTER_MODEL).unlink()
        os.mknod(folder / names.ADAPTER_MODEL, 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs root")
    _refused_special(folder / names.ADAPTER_MODEL, "cannot be opened|expected a regular file, got a device")


def _refused_special(path: Path, words: str) -> None:
    """As `_refused`, for a file that has no content to compare."""
    mode = path.lstat().st_mode
    with pytest.raises(AdapterError, match=words):
        Adapter.load(path.parent)
    assert path.lstat().st_mode == mode


def test_a_sparse_terabyte_is_refused(absent: Path) -> None:
    """A file that claims 1 TB is refused by its size: nothing is read or allocated."""
    absent.touch()
    os.truncate(absent, 1 << 40)
    _refused(absent.parent, "expected at most .* bytes, got 1,099,511,627,776")


def test_a_socket_is_refused(absent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket in the place of a file is told as one."""
    monkeypatch.chdir(absent.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(absent.name)
        with pytest.raises(AdapterError, match="it is a socket"):
            Adapter.load(absent.parent)


@pytest.mark.parametrize("change", [1, -1], ids=["longer", "shorter"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    """A writer who is not done, or who cuts the file off, is noticed; nothing is memory-mapped that could go."""
    folder = write_adapter(tmp_path / "foreign", SOUND)
    model = folder / names.ADAPTER_MODEL
    read = os.readv

    def readv_and_change(descriptor: int, buffers: list[memoryview]) -> int:
        if os.fstat(descriptor).st_ino == model.stat().st_ino:
            os.truncate(model, len(SOUND) + change)
        return read(descriptor, buffers)

    monkeypatch.setattr(os, "readv", readv_and_change)
    words = "became longer while it was read" if change > 0 else "became shorter while it was read"
    with pytest.raises(AdapterError, match=words):
        Adapter.load(folder)


def test_a_file_is_opened_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can show one content to the check and another to the reader; cutting the file off later is nothing."""
    folder = write_adapter(tmp_path / "foreign", SOUND)
    opened: list[str] = []
    original = os.open

    def counting(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        opened.append(Path(path).name)
        return original(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", counting)
    adapter = Adapter.load(folder)
    os.truncate(folder / names.ADAPTER_MODEL, 0)
    assert opened == ["foreign", names.ADAPTER_CONFIG, names.ADAPTER_MODEL]
    for name, value in sound_tensors().items():
        np.testing.assert_array_equal(adapter.tensors[name], value)


def test_a_path_with_nul_is_refused() -> None:
    """A path that no system call takes gives the typed error too."""
    with pytest.raises(AdapterError, match="embedded null"):
        Adapter.load("a\0b")


PROGRAM = """
import resource, sys
from pathlib import Path
from edgepeft.adapter import Adapter
from edgepeft.errors import AdapterError

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), -1))
for folder in sys.argv[2:]:
    try:
        Adapter.load(folder)
    except AdapterError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="the system cannot limit memory")
def test_refusals_take_bounded_memory(tmp_path: Path) -> None:
    """With 256 MiB to spare, the greediest files are still refused for what they are, not for want of memory."""
    greedy = [
        *RESOURCES.values(),
        TEXT["nested brackets"],
        LENGTH["header of 2^63"],
        OVERFLOW["2^32 x 2^32"],
    ]
    folders = [write_adapter(tmp_path / str(number), content) for number, (content, _) in enumerate(greedy)]
    sparse = write_adapter(tmp_path / "sparse", SOUND)
    os.truncate(sparse / names.ADAPTER_MODEL, 1 << 40)
    command = [sys.executable, "-c", PROGRAM, str(256 << 20), *map(str, [*folders, sparse])]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == len(greedy) + 1
    assert not [line for line in lines if "memory" in line]


# Hypothesis: whatever the header says, it is refused with the typed error or read as the library reads it.

_NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64]),
    st.floats(),
    st.booleans(),
)
_ROWS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I64", "U8", "BOOL", "BF16", "f32", "", None, 1]),
        "shape": st.one_of(st.lists(_NUMBERS, max_size=10), st.none(), st.text(max_size=3)),
        "data_offsets": st.one_of(st.lists(_NUMBERS, max_size=3), st.tuples(st.just(0), st.integers(0, 64))),
    },
    optional={"extra": st.none()},
)
_JSON = st.recursive(
    st.one_of(st.none(), _NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
)
_NAMES = st.one_of(st.sampled_from(["a", "b", LORA_A, "__metadata__", "..", "a/../b"]), st.text(max_size=8))
_HEADERS = st.dictionaries(_NAMES, st.one_of(_ROWS, _ROWS, _JSON), max_size=4)


def _agrees_or_refuses(content: bytes) -> None:
    try:
        arrays, metadata = tensors.parse_checked(memoryview(content), "file", AdapterError)
    except AdapterError:
        return
    views, _ = tensors.parse(memoryview(content), "file", AdapterError)
    assert sum(array.nbytes for array in arrays.values()) <= len(content)
    for name, array in arrays.items():
        assert array.tobytes() == views[name].tobytes()
    again = tensors.serialize(arrays, metadata)
    assert tensors.parse(memoryview(again), "file", AdapterError)[1] == metadata


@given(header=_HEADERS, data=st.binary(max_size=64))
@settings(deadline=None, max_examples=400)
def test_any_header_is_refused_or_read_alike(header: dict[str, object], data: bytes) -> None:
    """Rows of right and wrong types, at random: no other exception, no disagreement with the library."""
    _agrees_or_refuses(safetensors_file(header, data))


@given(
    text=st.binary(max_size=80), data=st.binary(max_size=16), length=st.integers(0, (1 << 64) - 1) | st.none()
)
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_refused_or_read_alike(text: bytes, data: bytes, length: int | None) -> None:
    """Bytes that are no header at all."""
    _agrees_or_refuses(safetensors_file(text, data, length=length))


@given(position=st.integers(0, len(SOUND) - 1), value=st.integers(0, 255), cut=st.integers(0, 3))
@settings(deadline=None, max_examples=400)
def test_any_damage_is_refused_or_read_alike(position: int, value: int, cut: int) -> None:
    """One byte of a sound file changed, and a few cut off: what still reads, two readers read alike."""
    damaged = bytearray(SOUND)
    damaged[position] = value
    _agrees_or_refuses(bytes(damaged[: len(damaged) - cut]))
