"""CSV: columns become the keys of a record, or the numbers of a model's one input."""

import csv
from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft import limits
from edgepeft.data.csv_files import CsvFile
from edgepeft.data.lines import IndexedFile
from edgepeft.errors import DataError
from edgepeft.manifest import Port

SENSOR = (
    Port(name="x", dtype="float32", shape=["batch", 3]),
    Port(name="labels", dtype="int64", shape=["batch"]),
)


def save(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def records(path: Path, classes: list[str] | None = None, ports: tuple[Port, ...] = SENSOR) -> IndexedFile:
    """A file for a model of numbers."""
    return IndexedFile(path, lambda lines: CsvFile(lines, ports, classes, text=False), lambda _: None)


def test_columns_of_text(handmade: Path, tmp_path: Path) -> None:
    """The same rows as JSON Lines of the same keys; quotes hold commas, quotes and ends of lines."""
    model = edgepeft.load(handmade / "chat")
    path = save(tmp_path / "a.csv", 'prompt,completion\r\nwho,me\r\n"a, ""b""\nc",d\r\n')
    expected = [{"prompt": "who", "completion": "me"}, {"prompt": 'a, "b"\nc', "completion": "d"}]
    got, want = model.open_data(path).read([0, 1]), model.open_data(expected).read([0, 1])
    for one, other in zip(got, want, strict=True):
        assert all(np.array_equal(one.row[name], other.row[name]) for name in other.row)


def test_labels_by_name_and_number(handmade: Path, tmp_path: Path) -> None:
    """In either order of the columns."""
    model = edgepeft.load(handmade / "classifier")
    path = save(tmp_path / "a.csv", "\ufefflabel,text\nblue,sky\n1,leaf\n")
    assert [int(one.row["labels"]) for one in model.open_data(path).read([0, 1])] == [2, 1]
    assert model.evaluate(path)["rows"] == 2


@pytest.mark.parametrize("entries", [1, 3, 1000])
def test_rows_over_several_lines_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """From any remembered place on, and told by the line on which they begin."""
    monkeypatch.setattr(limits, "MAX_INDEX_ENTRIES", entries)
    rows = "".join(f'"{number}\n",2\n' if number % 3 == 0 else f"{number},2\n\n" for number in range(30))
    found = records(
        save(tmp_path / "a.csv", "a,b\n" + rows), ports=(Port(name="x", dtype="float32", shape=["batch", 2]),)
    )
    order = [29, 0, 13, 12, 28]
    assert [record["x"] for _, record in found.read(order)] == [[float(number), 2.0] for number in order]
    assert [where.rpartition(":")[2] for where, _ in found.read([0, 1, 2])] == ["2", "4", "6"]


@pytest.mark.parametrize(("header", "label"), [("a,b,c,label", "2"), ("labels,a,b,c", "walk")])
def test_columns_of_numbers(tmp_path: Path, header: str, label: str) -> None:
    """All but the label are the input, in the file's order; a class goes by number or name."""
    columns = dict(zip("abc", ["1", "-2.5", "3e2"], strict=True)) | {"label": label, "labels": label}
    path = save(tmp_path / "a.csv", f"{header}\n{','.join(columns[name] for name in header.split(','))}\n")
    ((_, record),) = records(path, ["sit", "stand", "walk"]).read([0])
    assert record["x"] == [1.0, -2.5, 300.0]
    assert record["label"] == (2 if label == "2" else "walk")


def test_a_target_that_is_no_class(tmp_path: Path) -> None:
    """Of a model without classes the label is a number; a model may also be given no label at all."""
    path = save(tmp_path / "a.csv", "a,b,c,label\n1,2,3,-0.5\n")
    ((_, record),) = records(path).read([0])
    assert record == {"x": [1.0, 2.0, 3.0], "label": -0.5}
    ((_, record),) = records(save(tmp_path / "b.csv", "a,b,c\n1,2,3\n")).read([0])
    assert record == {"x": [1.0, 2.0, 3.0]}


BAD = [
    ("", ":1: has no rows"),
    ("a,b,c,label\n1,2,3\n", ":2: has 3 columns, the header 4"),
    ("a,b,c,label\n1,2,3,0,5\n", ":2: has 5 columns, the header 4"),
    ("a,b,c,label\n1,2,3,0\n1,,3,0\n", ":3: column 'b' holds ''; expected a number"),
    ("a,b,c,label\n1,nan,3,0\n", ":2: column 'b' holds 'nan'; expected a finite number"),
    ("a,b,c,label\n1,x,3,0\n", ":2: column 'b' holds 'x'; expected a number"),
    ("a,b,label\n1,2,0\n", ":1: has 2 columns of numbers; 'x' takes 3"),
    ("a,b,b,label\n1,2,3,0\n", ":1: column 'b' is named twice"),
    ("a,,c,label\n1,2,3,0\n", ":1: column '' is named twice or not at all"),
    ("a,b,c,label,labels\n1,2,3,0,0\n", ":1: has both a column 'label' and 'labels'"),
    ('a,b,c,label\n1,"2,3,0\n', ":2: broken CSV: unexpected end of data"),
    ('a,b,c,label\n1,"2"2,3,0\n', ":2: broken CSV"),
    ("a,b,c,label\n1,2\x00,3,0\n", ":2: "),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, text: str, words: str) -> None:
    """File, line, what was found and what is expected, before any row is asked for."""
    path = save(tmp_path / "a.csv", text)
    with pytest.raises(DataError) as caught:
        records(path)
    assert f"{path}{words}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Told by line; nothing is guessed about another encoding."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b,c\n1,2,3\n1,\xff,3\n")
    with pytest.raises(DataError, match=r":3: broken CSV: no UTF-8 at byte 2"):
        records(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,label\nsky,pink\n", ":2: label 'pink' is unknown; the model knows red, green, blue"),
        ("text,label\nsky,3\n", ":2: label 3 is unknown"),
        ("text,label\n,red\n", ":2: 'text' is ''; expected a text"),
        ("txt,label\nsky,red\n", ":2: has the keys label, txt; expected"),
        ("text,label\n", "has no rows"),
    ],
)
def test_columns_that_the_model_does_not_take(handmade: Path, tmp_path: Path, text: str, words: str) -> None:
    """As for JSON Lines."""
    with pytest.raises(DataError, match=words):
        edgepeft.load(handmade / "classifier").open_data(save(tmp_path / "a.csv", text))


def test_a_model_that_takes_no_table(bundles: Path, tmp_path: Path) -> None:
    """Images are not numbers in columns."""
    path = save(tmp_path / "a.csv", "a,label\n1,2\n")
    with pytest.raises(DataError, match=r":1: a CSV file is for text, or for one input of numbers"):
        edgepeft.load(bundles / "conv-net").open_data(path)


def test_a_long_field(handmade: Path, tmp_path: Path) -> None:
    """Python's module refuses a field of more than 128 KiB unless told otherwise."""
    text = "a " * 100_000
    path = save(tmp_path / "a.csv", f"text,label\n{text},blue\n")
    model = edgepeft.load(handmade / "classifier")
    ((_, record),) = model.open_data(path, 48).records([0])
    assert record == {"text": text, "label": "blue"}


def test_the_limit_of_a_field_is_that_of_a_line_for_us_alone(handmade: Path, tmp_path: Path) -> None:
    """The csv module has one for the whole program: another program's own stays, also after a broken row."""
    before = csv.field_size_limit()
    long = "a" * (before + 1)
    path = save(tmp_path / "a.csv", f"text,label\n{long},red\nsky,blue\n")
    rows = edgepeft.load(handmade / "classifier").open_data(path, 48)
    assert csv.field_size_limit() == before
    ((_, record),) = rows.records([0])
    assert record["text"] == long
    assert csv.field_size_limit() == before
    with pytest.raises(DataError, match="broken CSV"):
        records(save(tmp_path / "b.csv", 'a,b,c\n1,"2"2,3\n'))
    assert csv.field_size_limit() == before
