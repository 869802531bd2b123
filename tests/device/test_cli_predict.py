"""`edgepeft predict`, and `edgepeft train --labels` before it: a line or an object a row, and wrong uses."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgepeft
from edgepeft.cli import main


def run(*arguments: object) -> Result:
    """Runs the program in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="edgepeft")


def objects(done: Result) -> list[dict]:
    """What JSON Lines on standard output hold; nothing else is there."""
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_classifier_tells_labels(handmade: Path) -> None:
    """A line a text: label and probability; as JSON with the other classes' too, as the library has them."""
    texts = ["abc", "hello you"]
    expected = list(edgepeft.load(handmade / "classifier").classify(texts))
    common = ["predict", handmade / "classifier", "--text", texts[0], "--text", texts[1]]
    lines = run(*common).stdout.splitlines()
    assert lines == [f"{one.label}\t{one.probability:.4f}" for one in expected]
    found = objects(run(*common, "--json"))
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert found[1] == {
        "label": expected[1].label,
        "index": expected[1].index,
        "probability": expected[1].probability,
        "probabilities": dict(expected[1].probabilities),
    }


def test_own_categories(bundles: Path, tmp_path: Path) -> None:
    """Trained by name, predicted by name, from files; the bundle itself names no class."""
    data, plain = tmp_path / "data.jsonl", tmp_path / "plain.jsonl"
    rows = [{"text": text, "label": "vowels"} for text in ("aeiou", "ae", "iou", "uoiea")]
    rows += [{"text": text, "label": "digits"} for text in ("12345", "12", "345", "54321")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    options = ["--labels", "vowels, digits", "--max-steps", 60, "--learning-rate", 0.1, "--batch-size", 8]
    trained = run("train", bundles / "embedder", "--data", data, "--output", tmp_path / "mine", *options)
    assert trained.exit_code == 0, trained.stderr
    for file in (data, plain):
        found = objects(
            run("predict", bundles / "embedder", "--data", file, "--adapter", tmp_path / "mine", "--json")
        )
        assert [one["label"] for one in found] == [row["label"] for row in rows]
    unnamed = objects(run("predict", bundles / "embedder", "--data", plain, "--json"))
    assert set(unnamed[0]["probabilities"]) == {"0", "1", "2"}


def test_a_regression_tells_numbers(bundles: Path, handmade: Path, tmp_path: Path) -> None:
    """By name where they have names."""
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"x": [0.5] * 8}) + "\n" + json.dumps({"x": [-1] * 8}) + "\n")
    expected = [one.by_label for one in edgepeft.load(bundles / "wide").regress(data)]
    lines = run("predict", bundles / "wide", "--data", data).stdout.splitlines()
    assert lines[0] == "\t".join(f"{name} {value:.6g}" for name, value in expected[0].items())
    found = objects(run("predict", bundles / "wide", "--data", data, "--json"))
    assert [one["by_label"] for one in found] == expected
    assert found[0]["values"] == list(expected[0].values())
    data.write_text(json.dumps({"x": [1, 2, 3]}) + "\n")
    (line,) = run("predict", handmade / "regression", "--data", data).stdout.splitlines()
    (numbers,) = edgepeft.load(handmade / "regression").regress(data)
    np.testing.assert_allclose([float(word) for word in line.split()], numbers.values, rtol=1e-5)
    assert objects(run("predict", handmade / "regression", "--data", data, "--json"))[0].keys() == {"values"}


def test_any_other_model_tells_its_outputs(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the outputs' names."""
    monkeypatch.setattr(edgepeft.manifest.Manifest, "classes", None)
    expected = next(edgepeft.load(bundles / "embedder").predict_rows(["abc"]))
    done = run("predict", bundles / "embedder", "--text", "abc")
    names = [part.split(" ")[0] for part in done.stdout.rstrip("\n").split("\t")]
    assert names == ["embedding", "logits"]
    (found,) = objects(run("predict", bundles / "embedder", "--text", "abc", "--json"))
    assert found == {name: value.tolist() for name, value in expected.items()}


def test_rows_that_are_cut_are_told(handmade: Path) -> None:
    """On standard error, how many; without --max-length they are refused."""
    common = ["predict", handmade / "classifier", "--text", "a" * 60, "--text", "b"]
    refused = run(*common)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "row 1: is 60 tokens long; the model takes 48" in refused.stderr
    done = run(*common, "--max-length", 40)
    assert done.stderr == "1 rows are cut to 40\n"
    assert len(done.stdout.splitlines()) == 2
    assert run(*common[:2], "--text", "b", "--max-length", 40).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["classifier"], 2, "give the rows that are to be predicted: --data or --text, one of them"),
        (["classifier", "--text", "a", "--data", "{data}"], 2, "--data or --text, one of them"),
        (["classifier", "--text", ""], 1, "row 1: 'text' is ''"),
        (["classifier", "--text", "a", "--batch-size", "0"], 2, "--batch-size"),
        (["classifier", "--text", "a", "--max-length", "49"], 2, "--max-length is 49; this model takes at"),
        (["classifier", "--text", "a", "--adaptor", "x"], 2, "--adapter"),
        (["classifier", "--text", "a", "--adapter", "{tmp}"], 1, "adapter_config.json"),
        (["classifier", "--data", "{tmp}/none.jsonl"], 2, "does not exist"),
        (["classifier", "--data", "{data}"], 1, "data.jsonl:1: has the keys prompt; expected"),
        (["regression", "--text", "a"], 2, "was exported without a tokenizer; give --data"),
        (["chat", "--text", "a"], 2, "is a language model; use generate or chat"),
    ],
)
def test_wrong_uses(handmade: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    """One line, the next step, nothing on standard output."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a"}\n')
    places = {"tmp": tmp_path, "data": data}
    done = run("predict", handmade / arguments[0], *(argument.format(**places) for argument in arguments[1:]))
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        ("spam,work,spam", 2, "--labels: 'spam' stands there twice"),
        ("spam,,work", 2, "labels: '' is no name of a class"),
        ("a,b,c,d", 1, "names 4 classes, the model has room for 3"),
        (
            "spam,wrok",
            1,
            "data.jsonl:1: label 'work' is unknown; the model knows spam, wrok. Did you mean 'wrok'?",
        ),
    ],
)
def test_labels_that_cannot_be(handmade: Path, tmp_path: Path, labels: str, code: int, words: str) -> None:
    """Told before a step is made; nothing is written."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "abc", "label": "work"}\n')
    common = ["--data", data, "--output", tmp_path / "mine", "--labels", labels]
    done = run("train", handmade / "classifier", *common)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == [data]
