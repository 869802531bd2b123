"""Prediction for people: classes with probabilities, numbers with names, embeddings, labels of one's own."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft import names
from edgepeft.errors import AdapterError, ArgumentError, DataError, EngineError
from edgepeft.prediction import classification, softmax

TEXTS = ["sky", "a much longer text than the other two", "leaf"]


@pytest.fixture
def bert(bundles: Path) -> edgepeft.Model:
    return edgepeft.load(bundles / "tiny-bert", threads=1)


def moved(adapter: edgepeft.Adapter, seed: int) -> edgepeft.Adapter:
    """An adapter with other values."""
    generator = np.random.default_rng(seed)
    tensors = {
        name: value + generator.standard_normal(value.shape).astype(np.float32)
        for name, value in sorted(adapter.tensors.items())
    }
    return dataclasses.replace(adapter, tensors=tensors)


# From scores to a class.


def test_softmax() -> None:
    """Shares of e to the score, also where e to the score is no float any more."""
    np.testing.assert_allclose(softmax(np.log(np.array([1, 4, 5], np.float32))), [0.1, 0.4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(softmax(np.array([1e4, 1e4, -1e4], np.float32)), [0.5, 0.5, 0])
    np.testing.assert_allclose(softmax(np.array([3e38, -3e38], np.float32)), [1, 0])
    np.testing.assert_allclose(softmax(np.array([0, -np.inf], np.float32)), [1, 0])
    assert softmax(np.zeros(3, np.float32)).dtype == np.float64


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_none(score: float) -> None:
    """A model that diverged has no likeliest class, and does not say that it has one."""
    with pytest.raises(EngineError, match="scores hold NaN or infinity"):
        classification(np.array([0, score, 1], np.float32), None)


def test_a_class_without_a_name_never_wins() -> None:
    """However high its score is, and it takes no share of the others'."""
    found = classification(np.log(np.array([1, 3, 96], np.float32)), ("spam", "work"))
    assert (found.label, found.index) == ("work", 1)
    assert found.probability == pytest.approx(0.75)
    assert dict(found.probabilities) == pytest.approx({"spam": 0.25, "work": 0.75})


def test_classes_without_names_are_numbered() -> None:
    """Their places, as text."""
    found = classification(np.array([0, 2, 1], np.float32), None)
    assert (found.label, found.index, list(found.probabilities)) == ("1", 1, ["0", "1", "2"])


# Rows of every kind.


def test_texts_are_classified(bert: edgepeft.Model) -> None:
    """Each as it would be alone, whatever it is padded to, in order; the names are the bundle's."""
    assert bert.text is not None
    found = list(bert.classify(TEXTS, batch_size=2))
    for text, one in zip(TEXTS, found, strict=True):
        ids = np.array([bert.text.encode_sequence(text)])
        batch = {"input_ids": ids, "attention_mask": ids**0, "token_type_ids": ids * 0}
        logits = bert.predict(batch)["logits"][0].astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(list(one.probabilities.values()), shares, rtol=1e-5)
        assert list(one.probabilities) == ["red", "green", "blue"]
        assert one.label == ["red", "green", "blue"][one.index]
        assert one.index == shares.argmax()
        assert one.probability == one.probabilities[one.label] == max(one.probabilities.values())
    assert len({one.probability for one in found}) == 3


def test_every_kind_of_data(bert: edgepeft.Model, tmp_path: Path) -> None:
    """A text, texts, records, a generator, columns, files with labels or without: the same answers."""
    expected = list(bert.classify(TEXTS))
    plain, labelled = tmp_path / "plain.jsonl", tmp_path / "labelled.jsonl"
    plain.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    labelled.write_text("".join(json.dumps({"text": text, "label": "red"}) + "\n" for text in TEXTS))
    table = tmp_path / "table.csv"
    table.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    kinds = [
        tuple(TEXTS),
        [{"text": text} for text in TEXTS],
        (text for text in TEXTS),
        {"text": TEXTS},
        plain,
        labelled,
        table,
        bert.open_data(plain, graph=names.INFER),
    ]
    for data in kinds:
        assert list(bert.classify(data)) == expected
    (alone,) = bert.classify(TEXTS[1])
    assert alone.probability == pytest.approx(expected[1].probability, rel=1e-5)


def test_images_are_classified(bundles: Path) -> None:
    """Rows of arrays, for a model without a tokenizer: there a text is the path of a file."""
    model = edgepeft.load(bundles / "conv-net")
    images = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    logits = model.predict({"image": images})["logits"]
    found = list(model.classify({"image": images}, batch_size=2))
    assert [one.index for one in found] == logits.argmax(1).tolist()
    assert [one.label for one in found] == [str(index) for index in logits.argmax(1)]
    with pytest.raises(DataError, match=r"images\.jsonl: cannot be"):
        model.classify("images.jsonl")


def test_rows_are_checked_at_once_and_run_one_batch_after_the_other(
    bert: edgepeft.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken row is told before the first answer; an answer does not wait for the rows behind it."""
    with pytest.raises(DataError, match="row 3: 'text' is ''"):
        bert.classify(["a", "b", ""])
    sizes: list[int] = []
    run = bert.engine.run

    def watched(graph: str, batch: dict, adapter: object) -> dict:
        sizes.append(len(batch["input_ids"]))
        return run(graph, batch, adapter)

    monkeypatch.setattr(bert.engine, "run", watched)
    found = bert.classify(TEXTS, batch_size=2)
    assert sizes == []
    next(found)
    assert sizes == [2]
    assert len(list(found)) == 2
    assert sizes == [2, 1]


def test_rows_that_are_too_long(bert: edgepeft.Model) -> None:
    """Refused, unless the user asks for them to be cut."""
    rows = ["x" * 100]
    with pytest.raises(DataError, match="row 1: is 100 tokens long; the model takes 64"):
        bert.classify(rows)
    opened = bert.open_data(rows, max_length=64, graph=names.INFER)
    assert opened.truncated_rows == 1
    assert list(bert.classify(opened)) == list(bert.classify(["x" * 64]))


def test_numbers_are_told_with_their_names(bundles: Path, handmade: Path) -> None:
    """A regression's outputs row by row; by place where the bundle names none."""
    rows = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    model = edgepeft.load(bundles / "wide")
    logits = model.predict({"x": rows})["logits"]
    found = list(model.regress({"x": rows}, batch_size=2))
    np.testing.assert_allclose([one.values for one in found], logits, rtol=1e-5, atol=1e-6)
    assert list(found[0].by_label) == ["north", "east", "south", "west"]
    assert found[4].by_label["west"] == found[4].values[3]
    unnamed = next(edgepeft.load(handmade / "regression").regress([{"x": [1.0, 2.0, 3.0]}]))
    assert unnamed.values.shape == (32,)
    assert unnamed.labels is None
    assert list(unnamed.by_label)[:2] == ["0", "1"]


def test_embeddings(bundles: Path) -> None:
    """A row each, in order, as it would be alone; also under another adapter."""
    model = edgepeft.load(bundles / "embedder")
    found = model.embed(TEXTS, batch_size=2)
    assert (found.shape, found.dtype) == ((3, 16), np.float32)
    np.testing.assert_allclose(found, np.concatenate([model.embed(text) for text in TEXTS]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    model.add_adapter("other", moved(model.adapter, 1))
    assert np.abs(model.embed(TEXTS, adapter="other") - found).max() > 1e-2
    assert np.array_equal(model.embed(TEXTS, batch_size=2), found)


def test_outputs_come_without_padding(bundles: Path) -> None:
    """A row's outputs are as long as the row, and those that it would have alone."""
    model = edgepeft.load(bundles / "tiny-llama")
    rows = list(model.predict_rows([{"text": "ab"}, {"text": "abcdef"}]))
    assert [row["logits"].shape for row in rows] == [(3, 260), (7, 260)]
    alone = next(model.predict_rows([{"text": "ab"}]))["logits"]
    np.testing.assert_allclose(rows[0]["logits"], alone, atol=1e-5)


def test_every_call_takes_an_adapter(bert: edgepeft.Model) -> None:
    """By name, without a swap; its own labels come with it."""
    bert.add_adapter("mail", moved(bert.adapter, 2).with_labels(["spam", "work"]))
    base = list(bert.classify(TEXTS))
    mail = list(bert.classify(TEXTS, adapter="mail"))
    assert {one.label for one in mail} <= {"spam", "work"}
    assert list(bert.classify(TEXTS)) == base
    rows = [{"text": "sky", "label": "spam"}]
    assert bert.evaluate(rows, adapter="mail")["rows"] == 1
    with pytest.raises(DataError, match="label 'spam' is unknown; the model knows red, green, blue"):
        bert.evaluate(rows)
    bert.use("mail")
    assert list(bert.classify(TEXTS)) == mail
    assert bert.labels == ("spam", "work")


@pytest.mark.parametrize(
    ("bundle", "call", "words"),
    [
        ("tiny-llama", "classify", "tiny-llama: is no classifier"),
        ("tiny-bert", "regress", "tiny-bert: is no regression, its loss is cross_entropy"),
        ("tiny-bert", "embed", r"has no output 'embedding' \[batch, width\], but logits \['batch', 3\]"),
    ],
)
def test_a_model_of_another_kind(bundles: Path, bundle: str, call: str, words: str) -> None:
    """The message says what the model is."""
    with pytest.raises(ArgumentError, match=words):
        getattr(edgepeft.load(bundles / bundle), call)(["a"])


def test_wrong_uses(bert: edgepeft.Model) -> None:
    """Told at once, not when the first answer is asked for."""
    with pytest.raises(ArgumentError, match="batch_size is 0"):
        bert.classify(TEXTS, batch_size=0)
    with pytest.raises(ArgumentError, match="no adapter is named 'alice'"):
        bert.classify(TEXTS, adapter="alice")
    with pytest.raises(DataError, match="has no rows"):
        bert.classify([])
    with pytest.raises(DataError, match="row 1: expected a mapping"):
        bert.classify([1])  # type: ignore[list-item]


def test_data_that_was_opened_for_something_else(bert: edgepeft.Model) -> None:
    """Rows with labels can be predicted; rows without cannot be measured."""
    rows = [{"text": "sky", "label": "red"}]
    assert len(list(bert.classify(bert.open_data(rows)))) == 1
    with pytest.raises(ArgumentError, match="opened without 'labels'; open it for graph 'train'"):
        bert.evaluate(bert.open_data(rows, graph=names.INFER))


# Labels of one's own.


def test_own_categories_are_learned(bundles: Path, tmp_path: Path) -> None:
    """Named by the user, trained, saved and loaded: the names come back with the adapter, and only they are told."""
    model = edgepeft.load(bundles / "embedder", threads=1)
    assert model.labels is None
    model.use(model.adapter.with_labels(["vowels", "digits"]))
    rows = [{"text": text, "label": "vowels"} for text in ("aeiou", "ae", "iou", "uoiea")]
    rows += [{"text": text, "label": "digits"} for text in ("12345", "12", "345", "54321")]
    arguments = edgepeft.TrainingArguments(learning_rate=0.1, max_steps=60, batch_size=8)
    result = edgepeft.Trainer(model, arguments).fit(rows)
    result.adapter.save(tmp_path / "mine")
    again = edgepeft.load(bundles / "embedder", tmp_path / "mine")
    assert again.labels == ("vowels", "digits")
    assert [one.label for one in again.classify(["eai", "321"])] == ["vowels", "digits"]
    assert again.evaluate(rows)["accuracy"] == 1
    assert set(next(again.classify("x")).probabilities) == {"vowels", "digits"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a", "label": "spma"}, r"knows spam, work\. Did you mean 'spam'\?"),
        (
            {"text": "a", "label": "holiday"},
            r"knows spam, work\. For classes of your own: train --labels, or with_labels\.",
        ),
        ({"text": "a", "label": 2}, "label 2 is unknown; the model knows spam, work"),
        (
            {"input_ids": [5], "attention_mask": [1], "token_type_ids": [0], "labels": 2},
            "holds the label 2; the model knows 0 to 1",
        ),
    ],
)
def test_a_label_that_was_not_named(bert: edgepeft.Model, row: dict, words: str) -> None:
    """Neither by name nor by number, although the model would have room for it."""
    bert.use(bert.adapter.with_labels(["spam", "work"]))
    with pytest.raises(DataError, match=f"row 1: .*{words}"):
        bert.evaluate([row])


def test_accuracy_is_that_of_what_is_told(bert: edgepeft.Model) -> None:
    """Among the named classes only, and of the rows whose label counts."""
    bert.use(moved(bert.adapter, 3))
    ids = np.arange(3, 260).reshape(-1, 1)
    logits = bert.predict({"input_ids": ids, "attention_mask": ids**0, "token_type_ids": ids * 0})["logits"]
    third = int(np.flatnonzero(logits.argmax(1) == 2)[0])  # a token whose likeliest class will have no name
    row = {"input_ids": ids[third], "attention_mask": [1], "token_type_ids": [0]}
    assert bert.evaluate([row | {"labels": 2}, row | {"labels": -100}])["accuracy"] == 1
    bert.use(bert.adapter.with_labels(["spam", "work"]))
    assert bert.evaluate([row | {"labels": int(logits[third, :2].argmax())}])["accuracy"] == 1


def test_more_labels_than_the_model_has_room_for(bert: edgepeft.Model) -> None:
    """Refused when the adapter is to be used; what was in use stays."""
    with pytest.raises(AdapterError, match="names 4 classes, the model has room for 3"):
        bert.use(bert.adapter.with_labels(["a", "b", "c", "d"]))
    assert bert.labels == ("red", "green", "blue")


def test_a_resumed_run_has_the_same_labels(bert: edgepeft.Model, tmp_path: Path) -> None:
    """Other names in the same order are other data: what was trained on would silently mean something else."""
    from edgepeft.errors import CheckpointError

    base = bert.adapter
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    arguments = edgepeft.TrainingArguments(max_steps=2, batch_size=2)
    bert.use(base.with_labels(["spam", "work"]))
    edgepeft.Trainer(bert, arguments).fit(rows, checkpoint_dir=tmp_path)
    bert.use(base.with_labels(["work", "spam"]))
    with pytest.raises(CheckpointError, match="other training data"):
        edgepeft.Trainer(bert, arguments).fit(rows, checkpoint_dir=tmp_path, resume=True)
