"""Files of another kind than they are taken for: told as what they are, with what to do."""

import shlex
from pathlib import Path

import pytest

import edgepeft
from edgepeft.data import mistaken
from edgepeft.errors import DataError

ROWS = '{"text": "a"}\n'


@pytest.fixture(scope="module")
def chat(handmade: Path) -> edgepeft.Model:
    return edgepeft.load(handmade / "chat")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.json",
            b'[{"text": "a"},\n {"text": "b"}]',
            "is one JSON array; expected JSON Lines, an object a line.",
        ),
        ("a.json", b'\xef\xbb\xbf[\n  "a"\n]', "is one JSON array"),
        ("a.jsonl", b'[\n{"text": "a"}]', "is one JSON array"),
        (
            "a.txt",
            b"Dear diary,\n",
            "begins with 'Dear diary,', which is no JSON Lines; expected an object a line",
        ),
        ("a.tsv", b"text\tlabel\n", "A table is saved as .csv, with commas and a header"),
        ("a", b"text,label\n", "begins with 'text,label'"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "which is no JSON Lines"),
        ("a.jsonl", ROWS.encode("utf-16"), "is UTF-16; expected UTF-8. Save it as UTF-8."),
        (
            "a.jsonl",
            ROWS.encode("utf-16-be"),
            "holds zero bytes, as binary files and UTF-16 do; expected JSON Lines",
        ),
        ("a.parquet", b"PAR1\x15\x00\x15", "holds zero bytes"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "is UTF-16; expected UTF-8"),
        (
            "a.csv",
            b"text;label\na;b\n",
            "is separated by semicolons; expected commas. Save the table with commas.",
        ),
        ("a.csv", b'"te,xt";"label"\na;b\n', "is separated by semicolons; expected commas"),
        ("a.csv", b"text\tlabel\na\tb\n", "is separated by tabs; expected commas"),
    ],
)
def test_what_it_is(chat: edgepeft.Model, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """One line, which names the file."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        chat.open_data(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", ROWS),
        ("rows", ROWS),
        ("a.txt", f"\n \n{ROWS}"),
        ("a.csv", 'text\n"one; two"\n'),
        ("a.csv", '"text"\n"one; two"\n'),
    ],
)
def test_what_is_taken(chat: edgepeft.Model, tmp_path: Path, name: str, content: str) -> None:
    """JSON Lines by any name; a column whose fields have semicolons."""
    path = tmp_path / name
    path.write_text(content)
    assert len(chat.open_data(path)) == 1


@pytest.mark.parametrize(
    ("name", "taken", "target"),
    [
        ("a.json", [], "a.jsonl"),
        ("a.jsonl", [], "a.lines.jsonl"),
        ("my rows; all.json", [], "my rows; all.jsonl"),
        ("a.json", ["a.jsonl", "a.lines.jsonl"], "a.lines.lines.jsonl"),
    ],
)
def test_the_command_harms_nothing(
    chat: edgepeft.Model, tmp_path: Path, name: str, taken: list[str], target: str
) -> None:
    """It reads the file that was given, whatever its name is, and writes one that is not there."""
    path = tmp_path / name
    for each in (name, *taken):
        (tmp_path / each).write_text('[{"text": "a"}]')
    with pytest.raises(DataError) as caught:
        chat.open_data(path)
    command = str(caught.value).partition("Write it so: ")[2]
    assert shlex.split(command) == ["jq", "-c", ".[]", str(path), ">", str(tmp_path / target)]


@pytest.mark.parametrize("header", ['"one; two"', '"one\ttwo"', '"one;\ntwo"', '"one ""; two"""'])
def test_a_quoted_header_of_one_column(tmp_path: Path, header: str) -> None:
    """What is in quotes separates nothing."""
    path = tmp_path / "a.csv"
    path.write_text(header + "\n1\n")
    mistaken.check_csv(path)
