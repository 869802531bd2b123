"""Rows of data: what is read, what is counted, and how a bad row is told."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft.data import collate, read_rows
from edgepeft.errors import ArgumentError, DataError


@pytest.fixture
def model(bundles: Path) -> edgepeft.Model:
    return edgepeft.load(bundles / "tiny-llama")


def read(model: edgepeft.Model, data):
    return read_rows(data, model.bundle.manifest, model.text)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_the_loss_counts_the_completion_and_its_end(model: edgepeft.Model) -> None:
    """A prompt goes through the chat template; its tokens are not counted, the answer's and <eos> are."""
    (row,) = read(model, [{"prompt": "Where?", "completion": "Here."}])
    counted = row["labels"] != -100
    assert model.text.decode(row["labels"][counted].tolist()) == "Here."
    assert row["labels"][-1] == 2
    prompt = row["input_ids"][~counted].tolist()
    assert (
        model.text._tokenizer.decode(prompt, skip_special_tokens=False)
        == "<bos>user: Where?<eos>\n<bos>assistant: "
    )
    assert np.array_equal(row["input_ids"][counted], row["labels"][counted])


def test_messages_count_the_last_answer(model: edgepeft.Model) -> None:
    """The same row as a prompt and its completion."""
    messages = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
    (one,) = read(model, [{"messages": messages}])
    (other,) = read(model, [{"prompt": "Where?", "completion": "Here."}])
    assert all(np.array_equal(one[name], other[name]) for name in other)


def test_text_counts_every_token(model: edgepeft.Model) -> None:
    """Plain text is trained on whole."""
    (row,) = read(model, [{"text": "abc"}])
    assert np.array_equal(row["labels"], row["input_ids"])
    assert len(row["labels"]) == 4


def test_labels_by_name_and_number(bundles: Path) -> None:
    """A classifier's rows name a class of the bundle, or give its number."""
    model = edgepeft.load(bundles / "tiny-bert")
    rows = read(model, [{"text": "sky", "label": "blue"}, {"text": "leaf", "label": 1}])
    assert [int(row["labels"]) for row in rows] == [2, 1]
    result = model.evaluate([{"text": "sky", "label": "blue"}, {"text": "leaf", "label": 1}])
    assert 0 <= result["accuracy"] <= 1
    assert result["rows"] == 2


def test_rows_are_padded_on_the_right(model: edgepeft.Model) -> None:
    """To the longest row, with the pad token, 0 and -100."""
    rows = read(model, [{"text": "abc"}, {"text": "a"}])
    batch = collate(rows, model.bundle.manifest.data_inputs("train"), pad_token_id=7)
    assert batch["input_ids"].shape == (2, 4)
    assert batch["input_ids"][1, 2:].tolist() == [7, 7]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"][1, 2:].tolist() == [-100, -100]


def test_padding_changes_no_loss(model: edgepeft.Model) -> None:
    """A short row costs the same alone and beside a long one."""
    alone = [model.evaluate([{"text": text}], 1)["loss"] for text in ("ab", "a much longer row")]
    weights = [2, 17]  # counted: every token but the first
    together = model.evaluate([{"text": "ab"}, {"text": "a much longer row"}], 2)["loss"]
    assert together == pytest.approx(np.average(alone, weights=weights), rel=1e-5)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"text": "a"}', '{"text": "b"'], ":2: broken JSON"),
        (["[1]"], ":1: expected a JSON object, got list"),
        (['{"text": "a"}', "", '{"txt": "b"}'], ":3: has the keys txt; expected"),
        (['{"text": 5}'], ":1: 'text' is 5; expected a text"),
        (['{"prompt": "a", "completion": ""}'], ":1: 'completion' is ''; expected a text"),
        (['{"text": "a", "label": 1}'], ":1: is for a classifier"),
        (['{"messages": [{"role": "user", "content": "a"}]}'], ':1: "messages" must be'),
        ([json.dumps({"text": "x" * 200})], ":1: is 201 tokens long; the model takes 128"),
        (["[" * 100_000], ":1: broken JSON"),
        ([], "has no rows"),
    ],
)
def test_a_bad_line_is_named(model: edgepeft.Model, tmp_path: Path, lines: list[str], words: str) -> None:
    """File, line, what was found and what is expected."""
    path = write(tmp_path / "data.jsonl", *lines)
    with pytest.raises(DataError) as caught:
        read(model, path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": np.zeros((8, 8)), "labels": 1}, "row 1: 'image' has shape"),
        ({"image": np.zeros((1, 8, 9)), "labels": 1}, "row 1: 'image' has shape"),
        ({"image": np.zeros((1, 8, 8))}, "row 1: has the keys image; expected the arrays image, labels"),
        ({"image": "no array", "labels": 1}, "row 1: 'image' is no float32 array"),
    ],
)
def test_a_bad_array_is_named(bundles: Path, row: dict, words: str) -> None:
    """The row, the input, and the shape that is expected."""
    model = edgepeft.load(bundles / "conv-net")
    with pytest.raises(DataError) as caught:
        read(model, [row])
    assert words in str(caught.value)


def test_an_unknown_label_is_told_with_those_that_are_known(bundles: Path) -> None:
    """The message lists the classes."""
    model = edgepeft.load(bundles / "tiny-bert")
    for label in ("pink", 3, -1, True, None):
        with pytest.raises(DataError, match="the model knows red, green, blue"):
            read(model, [{"text": "sky", "label": label}])


def test_a_missing_file(model: edgepeft.Model, tmp_path: Path) -> None:
    """A file that cannot be read."""
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(model, tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": [5.5, 6, 7]}, "row 2: 'input_ids' is no int64 array: it holds float64"),
        ({"input_ids": [2**70, 6, 7]}, "row 2: 'input_ids' is no int64 array"),
        ({"input_ids": [[5, 6, 7]]}, r"row 2: 'input_ids' has shape \[1, 3\], expected \['length'\] a row"),
        ({"attention_mask": [1, 1]}, "row 2: 'input_ids' and 'attention_mask' differ in length: 3 and 2"),
        ({"labels": [5, 33, 7]}, "row 2: holds the label 33; the model knows 0 to 32, and -100 for none"),
        ({"labels": [5, -3, 7]}, "row 2: holds the label -3"),
        ({"input_ids": [], "attention_mask": [], "labels": []}, r"row 2: 'input_ids' has shape \[0\]"),
    ],
)
def test_arrays_that_would_be_read_as_something_else(handmade: Path, change: dict, words: str) -> None:
    """Rounded, padded beside each other, or counted as another class: told by row instead."""
    row = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [5, 6, -100]}
    with pytest.raises(DataError, match=words):
        read(edgepeft.load(handmade / "chat"), [row, row | change])


def test_classes_are_checked_in_arrays_too(handmade: Path) -> None:
    """A label that the classifier has no place for."""
    model = edgepeft.load(handmade / "classifier")
    row = {"input_ids": [5, 6], "attention_mask": [1, 1]}
    assert model.evaluate([row | {"labels": 2}])["counted"] == 1.0
    with pytest.raises(DataError, match="row 1: holds the label 3; the model knows 0 to 2"):
        read(model, [row | {"labels": 3}])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "expected a JSON Lines file or a list of rows, got NoneType"),
        (7, "got int"),
        ({"text": "a"}, "got dict"),
        ([7], "row 1: expected a mapping of names to values, got int"),
        (["text"], "row 1: expected a mapping of names to values, got str"),
        ([{1: "a"}], "row 1: has the keys 1; expected"),
        ([{"text": "\ud800"}], "row 1: the text is no Unicode at character 0"),
    ],
)
def test_data_that_is_no_rows(handmade: Path, data: object, words: str) -> None:
    """A typed error for each."""
    with pytest.raises(DataError, match=words):
        read(edgepeft.load(handmade / "chat"), data)


def test_evaluation_needs_something_to_count(handmade: Path) -> None:
    """A row without labels beside one with them weighs nothing; alone there is no loss."""
    model = edgepeft.load(handmade / "chat")
    empty = {"input_ids": [5, 6], "attention_mask": [1, 1], "labels": [-100, -100]}
    expected = model.evaluate([{"text": "hello"}])["loss"]
    assert model.evaluate([empty, {"text": "hello"}], 1)["loss"] == pytest.approx(expected)
    with pytest.raises(DataError, match="no row has a label that counts"):
        model.evaluate([empty])
    with pytest.raises(ArgumentError, match="batch_size is 0; expected 1 or more"):
        model.evaluate([{"text": "hello"}], 0)
