"""Data in memory: lists, generators, columns, and what is none of these."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepeft
from edgepeft.data.encode import Encoder
from edgepeft.data.in_memory import Columns, Rows
from edgepeft.errors import DataError


@pytest.fixture
def model(handmade: Path) -> edgepeft.Model:
    return edgepeft.load(handmade / "regression")


def arrays(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "x": generator.standard_normal((count, 3), dtype=np.float32),
        "target": generator.standard_normal((count, 32), dtype=np.float32),
    }


class Lazy:
    """Rows that are made when they are asked for, such as a Hugging Face data set's."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = columns
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked.append(index)
        return {name: column[index] for name, column in self.columns.items()}


def test_all_ways_give_the_same_rows(model: edgepeft.Model) -> None:
    """Columns of arrays and of lists, a list of rows, a generator, and an object that can be indexed."""
    columns = arrays(5)
    rows = [{name: column[index] for name, column in columns.items()} for index in range(5)]
    ways = [
        columns,
        {name: column.tolist() for name, column in columns.items()},
        rows,
        iter(rows),
        Lazy(columns),
    ]
    losses = {model.evaluate(way, 2)["loss"] for way in ways}
    assert len(losses) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "expected a file, a folder, columns or a list of rows, got NoneType"),
        (7, "got int"),
        ({"x": 1.5}, "got dict whose 'x' is float; expected in each an array or a list"),
        ({"x": np.float32(1)}, "got dict whose 'x' is float32"),
        ({"x": np.array(1.0)}, "got dict whose 'x' is ndarray"),
        ({"x": np.zeros((4, 3)), "target": np.zeros((5, 32))}, "not equally long: x 4, target 5"),
        ({"x": np.zeros((0, 3)), "target": np.zeros((0, 32))}, "the data: has no rows"),
        ({}, "the data: has no rows"),
        ([], "the data: has no rows"),
        (iter(()), "the data: has no rows"),
        (
            {"x": np.zeros((2, 4)), "target": np.zeros((2, 32))},
            r"row 1: 'x' has shape \[4\], expected \[3\] a row",
        ),
        ({"x": np.zeros((2, 3))}, "row 1: has the keys x; expected the arrays x, target"),
        ([7], "row 1: expected a mapping of names to values, got int"),
    ],
)
def test_data_that_is_no_rows(model: edgepeft.Model, data: object, words: str) -> None:
    """A typed error for each."""
    with pytest.raises(DataError, match=words):
        model.open_data(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"text": "a"}, "got dict"),
        ([["text"]], "row 1: expected a mapping of names to values, got list"),
        ([{1: "a"}], "row 1: has the keys 1; expected"),
        ([{"text": "\ud800"}], "row 1: the text is no Unicode at character 0"),
        ({"text": ["a", ""]}, "row 2: 'text' is ''"),
    ],
)
def test_text_that_is_no_rows(handmade: Path, data: object, words: str) -> None:
    """A typed error for each."""
    with pytest.raises(DataError, match=words):
        edgepeft.load(handmade / "chat").open_data(data)


def test_texts_are_rows(handmade: Path) -> None:
    """A list of texts is a list of records that hold a text alone, for a model that takes text."""
    model = edgepeft.load(handmade / "chat")
    (plain,), (named,) = (model.open_data(data).read([0]) for data in (["abc"], [{"text": "abc"}]))
    assert np.array_equal(plain.row["input_ids"], named.row["input_ids"])
    with pytest.raises(DataError, match="row 1: expected a mapping of names to values, got str"):
        edgepeft.load(handmade / "regression").open_data(["abc"])


def test_rows_that_cannot_be_had(model: edgepeft.Model) -> None:
    """A table of another library, which is indexed by column, or a reader that fails: the row, and what to give."""

    class Table(Lazy):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise KeyError(index)

    with pytest.raises(
        DataError, match=r"row 1: cannot be read: KeyError: 0. Give a list of dicts, or a dict of"
    ):
        model.open_data(Table(arrays(3)))


DIFFERENT = [
    [{"a": "x"}],
    [{"a": "y"}],
    [{"b": "x"}],
    [{"a": "x"}, {"a": "x"}],
    [{"a": ["x"]}],
    [{"a": "x", "b": None}],
    [{"a": ["x", "yz"]}],
    [{"a": ["xy", "z"]}],
    [{"a": 1}],
    [{"a": 1.0}],
    [{"a": [1]}],
    [{"a": [1, 2]}],
    [{"a": np.array([1, 2], np.int32)}],
    [{"a": np.array([[1, 2]], np.int32)}],
    [{"a": {"x": 1}}],
    [{"a": "\ud800"}],
    [{"a": [1, [2, 3]]}],
    [{"a": [1, [2, 4]]}],
    [{"a": [1, "2"]}],
    [{"a": [1, None]}],
    [{"a": [10**30]}],
    [{"a": np.array(["x"] * 2000, object)}],
    [{"a": np.array(["x"] * 1000 + ["y"] + ["x"] * 999, object)}],
    [{"a": np.array([[1], [2, 3]], object)}],
]


def all_keys(keys: Iterable[str]) -> Iterable[str]:
    return keys


def test_digests_tell_data_apart() -> None:
    """Other values, kinds, shapes, names and orders give another digest; the same give the same."""
    digests = [Rows(rows, all_keys).digest() for rows in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    assert digests == [Rows(list(rows), all_keys).digest() for rows in DIFFERENT]
    columns = arrays(4)
    assert Columns(columns, all_keys).digest() == Columns(dict(reversed(columns.items())), all_keys).digest()
    changed = columns | {"x": columns["x"] + np.float32(1)}
    assert Columns(columns, all_keys).digest() != Columns(changed, all_keys).digest()
    assert Columns({"a": ["x", "y"]}, all_keys).digest() != Columns({"a": ["y", "x"]}, all_keys).digest()


def test_what_is_not_read_is_no_part_of_the_data(model: edgepeft.Model, handmade: Path) -> None:
    """Neither in its fingerprint nor in the way: an object, whose name is another in the next process."""
    columns = arrays(2)
    rows = [{name: column[index] for name, column in columns.items()} for index in range(2)]
    noted = [row | {"note": object(), "source": [1, [2, 3]]} for row in rows]
    assert model.open_data(noted).fingerprint() == model.open_data(rows).fingerprint()
    whole = model.open_data(columns).fingerprint()
    assert model.open_data(columns | {"note": [object(), [1, [2]]]}).fingerprint() == whole
    assert model.open_data(columns | {"x": columns["x"][::-1]}).fingerprint() != whole
    sensor = edgepeft.load(handmade / "sensor")
    one, other = ([{"x": np.zeros(3), "label": label}] for label in ("walk", "run"))
    assert sensor.open_data(one).fingerprint() != sensor.open_data(other).fingerprint()


def test_a_row_that_is_of_no_use_is_told_by_its_digest(model: edgepeft.Model) -> None:
    """Of rows that stream, the fingerprint is the first that looks at all."""
    encoder = Encoder(model.bundle.manifest, None, None)
    rows = Rows([{"x": [1, 2, 3], "target": [0] * 32}, {"x": [1, 2, 3]}], encoder.reads)
    with pytest.raises(DataError, match="row 2: has the keys x; expected"):
        rows.digest()
