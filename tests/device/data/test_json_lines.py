"""JSON Lines: what a line may be, and that every other is told by its number before training starts."""

import json
import os
from pathlib import Path

import pytest

import edgepeft
from edgepeft import limits
from edgepeft.data.contract import Row
from edgepeft.errors import DataError


@pytest.fixture
def model(handmade: Path) -> edgepeft.Model:
    return edgepeft.load(handmade / "chat")


def read(model: edgepeft.Model, data: object) -> list[Row]:
    rows = model.open_data(data)
    return [one.row for one in rows.read(range(len(rows)))]


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


BAD_LINES = [
    (['{"text": "a"}', '{"text": "b"'], ":2: broken JSON"),
    (["[1]"], ":1: expected a JSON object, got list"),
    (['{"text": "a"}', "", '{"txt": "b"}'], ":3: has the keys txt; expected"),
    (['{"text": 5}'], ":1: 'text' is 5; expected a text"),
    (['{"prompt": "a", "completion": ""}'], ":1: 'completion' is ''; expected a text"),
    (['{"text": "a", "label": 1}'], ":1: is for a classifier"),
    (['{"messages": [{"role": "user", "content": "a"}]}'], ':1: "messages" must be'),
    (["[" * 100_000], ":1: broken JSON"),
    (['{"text": NaN}'], ":1: broken JSON"),
    (['{"text": "\\ud800"}'], ":1: broken JSON"),
    (['{"text": "a"}', "\x00"], ":2: broken JSON"),
    ([], "has no rows"),
    (["", "  "], "has no rows"),
]


@pytest.mark.parametrize("held", [1 << 20, -1], ids=["held", "streams"])
@pytest.mark.parametrize(("lines", "words"), BAD_LINES)
def test_a_bad_line_is_named(
    model: edgepeft.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    words: str,
    held: int,
) -> None:
    """File, line, what was found and what is expected, before any row is asked for, of small files and large."""
    path = write(tmp_path / "data.jsonl", *lines)
    monkeypatch.setattr(limits, "MAX_HELD_FILE_BYTES", held)
    with pytest.raises(DataError) as caught:
        model.open_data(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (json.dumps({"text": "x" * 200}), ":2: is 201 tokens long; the model takes 48"),
        ('{"text": "a", "text": "b"}', ":2: broken JSON: the key 'text' stands there twice"),
    ],
)
def test_what_only_reading_shows(
    model: edgepeft.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    """A row too long, a key twice: of small files at the start, of large ones when the row is read."""
    path = write(tmp_path / "data.jsonl", '{"text": "a"}', line)
    with pytest.raises(DataError, match=words):
        model.open_data(path)
    monkeypatch.setattr(limits, "MAX_HELD_FILE_BYTES", -1)
    rows = model.open_data(path)
    assert rows.streams
    rows.read([0])
    with pytest.raises(DataError, match=words):
        rows.read([1])


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "ab"}\n{"text": "c"}\n',
        b'{"text": "ab"}\n{"text": "c"}',
        b'\xef\xbb\xbf{"text": "ab"}\r\n\r\n{"text": "c"}\r\n',
        b'\n  \n {"text": "ab"} \n\n{"text": "c"}\n\t\n',
    ],
    ids=["plain", "no last newline", "from Windows", "blank lines"],
)
def test_ways_to_end_a_line(model: edgepeft.Model, tmp_path: Path, content: bytes) -> None:
    """The same two rows each time."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    assert [len(row["input_ids"]) for row in read(model, path)] == [3, 2]


def test_a_line_without_end(model: edgepeft.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line has a limit, so that one that never ends takes no more memory than that."""
    monkeypatch.setattr(limits, "MAX_LINE_BYTES", 100)
    path = write(tmp_path / "data.jsonl", '{"text": "a"}', " " * 101)
    with pytest.raises(DataError, match=r":2: longer than 100 bytes. One row a line"):
        model.open_data(path)


def test_a_missing_file(model: edgepeft.Model, tmp_path: Path) -> None:
    """A file that cannot be read."""
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(model, tmp_path / "none.jsonl")


def test_a_file_without_read_permission(
    model: edgepeft.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said in one line. The system's refusal is simulated, since root is never refused."""
    path = write(tmp_path / "data.jsonl", '{"text": "a"}')
    real = os.open

    def refuse(name: str, *arguments: object, **more: object) -> int:
        if Path(name) == path:
            raise PermissionError(13, "Permission denied", name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        DataError, match=r"data.jsonl: cannot be read: Permission denied. Check its permissions"
    ):
        model.open_data(path)


def test_what_is_no_regular_file(model: edgepeft.Model, tmp_path: Path) -> None:
    """A pipe is not waited for, and a device is not read; a link to a file is followed."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match="expected a regular file"):
            model.open_data(path)
    with pytest.raises(DataError, match="a path cannot hold NUL"):
        model.open_data("a\0b")
    write(tmp_path / "data.jsonl", '{"text": "a"}')
    (tmp_path / "link").symlink_to(tmp_path / "data.jsonl")
    assert len(read(model, tmp_path / "link")) == 1
