"""Records -> rows: what is counted, what is cut, and how a bad row is told."""

from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft.data.encode import class_index, written_label
from edgepeft.errors import ArgumentError, DataError


@pytest.fixture
def model(bundles: Path) -> edgepeft.Model:
    return edgepeft.load(bundles / "tiny-llama")


def read(model: edgepeft.Model, data):
    rows = model.open_data(data)
    return [one.row for one in rows.read(range(len(rows)))]


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


def test_a_text_is_cut_at_its_end(handmade: Path) -> None:
    """The first tokens stay, with their labels; the row says that it was cut."""
    model = edgepeft.load(handmade / "chat")
    whole, cut = (model.open_data([{"text": "abcdef"}], length).read([0])[0] for length in (None, 4))
    assert (whole.truncated, cut.truncated) == (False, True)
    for name, value in cut.row.items():
        assert np.array_equal(value, whole.row[name][:4])
    assert not model.open_data([{"text": "abc"}], 4).read([0])[0].truncated


def test_arrays_are_cut_too(handmade: Path) -> None:
    """Along every axis that is the row's length."""
    row = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [5, 6, 7]}
    (cut,) = edgepeft.load(handmade / "chat").open_data([row], 2).read([0])
    assert {name: value.tolist() for name, value in cut.row.items()} == {
        "input_ids": [5, 6],
        "attention_mask": [1, 1],
        "labels": [5, 6],
    }
    long = {name: value * 17 for name, value in row.items()}
    with pytest.raises(DataError, match="row 1: is 51 tokens long; the model takes 48"):
        edgepeft.load(handmade / "chat").open_data([long])


def test_a_cut_that_leaves_nothing_to_learn_is_refused(handmade: Path) -> None:
    """The prompt alone fills the row, or leaves only what nothing foretells."""
    data = [{"text": "a"}, {"prompt": "abcdefgh", "completion": "xyz"}]
    model = edgepeft.load(handmade / "chat")
    with pytest.raises(DataError, match="row 2: has no label that counts among its first 10 tokens"):
        model.open_data(data, 10)
    (row,) = model.open_data(data[1:], 11).read([0])
    assert (row.row["labels"] != -100).sum() == 1
    tokens = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [5, -100, 7]}
    with pytest.raises(DataError, match="among its first 2 tokens"):  # nothing foretells the first
        model.open_data([tokens], 2)


def test_a_classifiers_text_keeps_its_special_tokens(bundles: Path) -> None:
    """What is cut is the text between them."""
    from tokenizers import processors

    model = edgepeft.load(bundles / "tiny-bert")
    assert model.text is not None
    model.text._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    (row,) = model.open_data([{"text": "abcdef", "label": "red"}], 5).read([0])
    assert row.truncated
    ids = row.row["input_ids"].tolist()
    assert (ids[0], ids[-1], model.text.decode(ids)) == (1, 2, "abc")
    assert len(row.row["attention_mask"]) == len(row.row["token_type_ids"]) == 5
    with pytest.raises(DataError, match="row 1: max_length is 2: special tokens alone take that"):
        model.open_data([{"text": "abcdef", "label": "red"}], 2)


def test_a_label_beside_arrays(bundles: Path) -> None:
    """By the singular name a class may stand beside any input, by number or, where classes have names, by name."""
    images = [{"image": np.zeros((1, 8, 8)), "label": 3}, {"image": np.zeros((1, 8, 8)), "labels": 4}]
    rows = read(edgepeft.load(bundles / "conv-net"), images)
    assert [int(row["labels"]) for row in rows] == [3, 4]
    model = edgepeft.load(bundles / "tiny-bert")
    tokens = {"input_ids": [5], "attention_mask": [1], "token_type_ids": [0]}
    assert [int(row["labels"]) for row in read(model, [tokens | {"label": "blue"}])] == [2]
    with pytest.raises(DataError, match="row 1: label 'pink' is unknown; the model knows red, green, blue"):
        read(model, [tokens | {"label": "pink"}])


def test_rows_for_a_prediction_need_no_label(handmade: Path) -> None:
    """The graph that predicts takes text without one, and leaves out one that is there."""
    model = edgepeft.load(handmade / "classifier")
    for record in (
        {"text": "ab"},
        {"text": "ab", "label": "red"},
        {"input_ids": [4, 5], "attention_mask": [1, 1]},
    ):
        (one,) = model.open_data([record], graph="infer").read([0])
        assert {name: value.tolist() for name, value in one.row.items()} == {
            "input_ids": [4, 5],
            "attention_mask": [1, 1],
        }
    with pytest.raises(
        DataError, match=r"row 1: has no 'label'; expected {\"text\", \"label\"}, or the arrays"
    ):
        model.open_data([{"text": "ab"}])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_number_that_is_none_is_told_with_its_row(handmade: Path, value: float) -> None:
    """In training it would spoil the loss of a whole batch, and nobody could say which row it was."""
    model = edgepeft.load(handmade / "regression")
    good = {"x": np.zeros(3), "target": np.zeros(32)}
    bad = good | {"x": np.array([0, value, 0])}
    with pytest.raises(DataError, match="row 2: 'x' holds NaN or infinity, or a number beyond float32"):
        read(model, [good, bad, good])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("2", 2),
        ("02", 2),
        ("7", "7"),
        ("-1", "-1"),
        ("²", "²"),
        ("0" * 20 + "2", "0" * 20 + "2"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_labels_that_a_file_has_as_text(text: str, label: str | int) -> None:
    """Digits are a number unless a class has that name; more digits than a number has are none, nor cut to one."""
    assert written_label(text, ["7"]) == label


def test_a_class_without_a_name_has_a_number_that_a_tensor_can_have() -> None:
    """What is larger is refused before it is made an array."""
    assert class_index(3, []) == 3
    for number in (1 << 31, 10**20):
        with pytest.raises(DataError, match=f"label {number} is unknown; the model knows numbers from 0"):
            class_index(number, [])
