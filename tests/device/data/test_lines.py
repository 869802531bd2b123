"""Indexed files: any record is found, in memory that does not grow, and a changed file is told."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepeft import limits
from edgepeft.data.csv_files import CsvFile
from edgepeft.data.files import sha256
from edgepeft.data.json_lines import JsonLines
from edgepeft.data.lines import IndexedFile, Place, SparseIndex
from edgepeft.errors import DataError


def numbered(path: Path, count: int) -> Path:
    """Rows that know their number; some are long, and some lines between them are blank."""
    with path.open("w") as file:
        for number in range(count):
            file.write(
                "\n" * (number % 7 == 3) + json.dumps({"n": number, "pad": "x" * (number % 50)}) + "\n"
            )
    return path


def indexed(path: Path) -> IndexedFile:
    return IndexedFile(path, lambda _: JsonLines(), lambda _: None)


@pytest.mark.parametrize("entries", [1, 2, 8, 100, 1 << 16])
def test_every_record_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """In any order, several at once, the same one twice, whatever the index has room for."""
    monkeypatch.setattr(limits, "MAX_INDEX_ENTRIES", entries)
    records = indexed(numbered(tmp_path / "data.jsonl", 1000))
    assert len(records) == 1000
    assert len(records.index.places) <= entries
    order = np.random.default_rng(0).permutation(1000).tolist()
    for start in range(0, 1000, 40):
        wanted = [*order[start : start + 40], order[start]]
        assert [record["n"] for _, record in records.read(wanted)] == wanted
    assert [record["n"] for _, record in records.read(range(1000))] == list(range(1000))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=40), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Whatever is in its fields, quotes and ends of lines too, from an index of any size, in any order."""
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *rows])
    order = data.draw(st.permutations(range(len(rows))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MAX_INDEX_ENTRIES", data.draw(st.integers(1, 8)))
        records = IndexedFile(path, lambda lines: CsvFile(lines, (), None, text=True), lambda _: None)
        assert len(records) == len(rows)
        assert [record for _, record in records.read(order)] == [
            {"a": rows[index][0], "b": rows[index][1]} for index in order
        ]


def test_the_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in lines of the file, blank ones too, also from the middle of it."""
    monkeypatch.setattr(limits, "MAX_INDEX_ENTRIES", 4)
    path = numbered(tmp_path / "data.jsonl", 100)
    lines = path.read_text().split("\n")
    for where, record in indexed(path).read([99, 3, 50]):
        assert json.loads(lines[int(where.rpartition(":")[2]) - 1]) == record


def test_the_index_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million records leave no more places than the limit, and no fewer than half, evenly apart."""
    monkeypatch.setattr(limits, "MAX_INDEX_ENTRIES", 64)
    index = SparseIndex()
    for number in range(1_000_000):
        index.add(Place(number * 10, number + 1))
        assert len(index.places) <= 64
    assert index.count == 1_000_000
    assert len(index.places) > 30
    assert [place.offset for place in index.places] == [
        10 * index.stride * entry for entry in range(len(index.places))
    ]


def test_a_file_that_changes_is_not_read_on(tmp_path: Path) -> None:
    """Grown, or written again in place with as many bytes: the places that are known are no longer sure."""
    path = numbered(tmp_path / "data.jsonl", 10)
    records = indexed(path)
    with path.open("a") as file:
        file.write('{"n": 10}\n')
    with pytest.raises(DataError, match=r"was changed while it was in use\. Start again"):
        records.read([0])
    records = indexed(path)
    os.utime(path, ns=(0, 1))
    with pytest.raises(DataError, match="was changed"):
        records.read([0])
    assert records.digest() == sha256(path).hex()
