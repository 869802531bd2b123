"""The log of a run: one JSON object an event, also over a cut and resumed run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from handmade_bundles import HANDMADE

import edgepeft
from edgepeft.engines.base import StepResult
from edgepeft.errors import DataError, StorageError

ROWS = [{"text": text} for text in ("hello there.", "who is it?", "a friend.")]


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_event_of_a_run(tmp_path: Path) -> None:
    """Begin, each step with its loss and learning rate, evaluations, the end; a second run is appended."""
    path = tmp_path / "log.jsonl"
    settings = edgepeft.TrainingArguments(
        max_length=10, max_steps=4, learning_rate=0.1, lr_scheduler_type="linear", evaluate_every=2
    )
    log = edgepeft.JsonLinesLog(path)
    for _ in range(2):
        trainer = edgepeft.Trainer(edgepeft.load(HANDMADE / "chat"), settings)
        result = trainer.fit(ROWS, ROWS[:1], callbacks=[log])
    told = events(path)
    kinds = ["begin", "evaluate", "step", "step", "evaluate", "step", "step", "evaluate", "end"]
    assert [line["event"] for line in told] == kinds * 2
    steps = [line for line in told[:9] if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["loss"] for line in steps] == result.losses
    assert [line["learning_rate"] for line in steps] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert told[8]["stop_reason"] == "finished"
    assert told[8]["truncated_rows"] == 2  # of 13, 11 and 10 tokens
    assert np.all(np.diff([line["time"] for line in told]) >= 0)


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    """Every line is JSON, which has neither NaN nor infinity."""
    log = edgepeft.JsonLinesLog(tmp_path / "log.jsonl")
    log.on_evaluate(1, math.nan)
    log.on_step_end(2, StepResult(loss=1.5, weight=1.0, gradient_norm=math.inf, learning_rate=0.1))
    log.close()
    evaluated, stepped = (
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "log.jsonl").read_text().splitlines()
    )
    assert evaluated["loss"] is None
    assert (stepped["loss"], stepped["gradient_norm"]) == (1.5, None)


@pytest.mark.parametrize("content", ['{"text": "hello"}\n', '{"event": "party"}\n', "\n", "event"])
def test_a_file_that_is_no_log(tmp_path: Path, content: str) -> None:
    """The data, say, named by mistake: it stays as it is."""
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(StorageError, match=r"data.jsonl: exists and is no log of training. Choose another"):
        edgepeft.JsonLinesLog(path)
    assert path.read_text() == content


def test_a_log_that_is_empty(tmp_path: Path) -> None:
    """As one is whose run was refused before it began."""
    (tmp_path / "log.jsonl").touch()
    edgepeft.JsonLinesLog(tmp_path / "log.jsonl").close()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """Told before the first step."""
    with pytest.raises(StorageError, match=r"log.jsonl: cannot be written: No such file"):
        edgepeft.JsonLinesLog(tmp_path / "missing" / "log.jsonl")


def test_a_disk_that_fills_up() -> None:
    """The device that is always full: the run ends with the reason, and the model keeps its adapter."""
    model = edgepeft.load(HANDMADE / "chat")
    before = model.adapter
    with pytest.raises(StorageError, match=r"/dev/full: cannot be written: No space left"):
        edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1)).fit(
            ROWS, callbacks=[edgepeft.JsonLinesLog("/dev/full")]
        )
    assert model.adapter is before


@pytest.mark.parametrize("cut", ['{"event": "step", "ti', "\0" * 100_000, ""])
def test_a_line_that_a_power_cut_left_half(tmp_path: Path, cut: str) -> None:
    """It goes, and the next event is a line of its own."""
    path = tmp_path / "log.jsonl"
    log = edgepeft.JsonLinesLog(path)
    log.on_train_begin(2, 1)
    log.close()
    whole = path.read_text()
    path.write_text(whole + cut)
    log.on_train_begin(2, 2)
    log.close()
    assert path.read_text().startswith(whole)
    assert [line["first_step"] for line in events(path)] == [1, 2]
    path.write_text('{"event": "begin", "time": 1')
    log.on_train_begin(2, 1)
    log.close()
    assert [line["event"] for line in events(path)] == ["begin"]


def test_a_run_that_is_refused_leaves_no_log(tmp_path: Path) -> None:
    """Nor does a log of which no run was ever told."""
    log = edgepeft.JsonLinesLog(tmp_path / "log.jsonl")
    trainer = edgepeft.Trainer(edgepeft.load(HANDMADE / "chat"), edgepeft.TrainingArguments())
    with pytest.raises(DataError, match="has no 'completion'"):
        trainer.fit([{"prompt": "who?"}], callbacks=[log])
    assert not list(tmp_path.iterdir())


def test_a_folder_or_a_file_in_place_of_its_folder(tmp_path: Path) -> None:
    """Told at once, and nothing is made."""
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        edgepeft.JsonLinesLog(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        edgepeft.JsonLinesLog(tmp_path / "file" / "log.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
