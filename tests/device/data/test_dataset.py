"""Data sets: what is held and what streams are the same rows, cut and counted alike, in bounded memory."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft import limits
from edgepeft.data import dataset
from edgepeft.engines.base import StepResult
from edgepeft.errors import ArgumentError, CheckpointError, DataError


@pytest.fixture
def model(handmade: Path) -> edgepeft.Model:
    return edgepeft.load(handmade / "chat")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Thirty rows of 2 to 41 tokens."""
    lengths = np.random.default_rng(1).integers(1, 41, 30)
    rows = [{"text": "abcdefghij"[index % 10] * int(length)} for index, length in enumerate(lengths)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data.jsonl"


def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every file too large to be held, and its index too small for it."""
    monkeypatch.setattr(limits, "MAX_HELD_FILE_BYTES", -1)
    monkeypatch.setattr(limits, "MAX_INDEX_ENTRIES", 4)
    monkeypatch.setattr(limits, "MAX_DRAWN_ROWS", 1)


def arguments(**changes: object) -> edgepeft.TrainingArguments:
    settings = {
        "learning_rate": 1e-2,
        "max_steps": 12,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "seed": 3,
    }
    return edgepeft.TrainingArguments(**(settings | changes))


def same(one: edgepeft.Adapter, other: edgepeft.Adapter) -> bool:
    return all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("grouped", [0, 1])
def test_a_stream_trains_as_what_is_held(
    model: edgepeft.Model, path: Path, monkeypatch: pytest.MonkeyPatch, grouped: int
) -> None:
    """Bit for bit the same adapter, losses and evaluation."""
    monkeypatch.setattr(limits, "MAX_DRAWN_ROWS", 1)
    settings = arguments(group_by_length=bool(grouped), max_length=20, evaluate_every=5)
    held = edgepeft.Trainer(model, settings).fit(path, path)
    stream(monkeypatch)
    model.use(model.bundle.initial_adapter())
    assert model.open_data(path).streams
    streamed = edgepeft.Trainer(model, settings).fit(path, path)
    assert same(held.adapter, streamed.adapter)
    assert held.losses == streamed.losses
    assert held.evaluation_losses == streamed.evaluation_losses
    assert held.truncated_rows == streamed.truncated_rows > 0


@pytest.mark.parametrize("cut", [1, 2, 7, 8, 11])
def test_a_cut_run_over_a_stream_resumes(
    model: edgepeft.Model, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Grouped by length, over two passes, cut without a chance to save: bit for bit as one that was not."""
    stream(monkeypatch)
    settings = arguments(group_by_length=True, checkpoint_every=1)

    class Cut(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del result
            if step > cut:
                raise KeyboardInterrupt

    whole = edgepeft.Trainer(model, settings).fit(path)
    model.use(model.bundle.initial_adapter())
    with pytest.raises(KeyboardInterrupt):
        edgepeft.Trainer(model, settings).fit(path, callbacks=[Cut()], checkpoint_dir=tmp_path / "run")
    model.use(model.bundle.initial_adapter())
    resumed = edgepeft.Trainer(model, settings).fit(path, checkpoint_dir=tmp_path / "run", resume=True)
    assert same(whole.adapter, resumed.adapter)
    assert whole.losses == resumed.losses


def test_a_run_does_not_resume_on_another_file(
    model: edgepeft.Model, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of a file that streams is enough; a copy under another name is the same data."""
    stream(monkeypatch)
    trainer = edgepeft.Trainer(model, arguments(max_steps=2))
    trainer.fit(path, checkpoint_dir=tmp_path / "run")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    trainer.fit(copy, checkpoint_dir=tmp_path / "run", resume=True)
    copy.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(CheckpointError, match="other training data"):
        trainer.fit(copy, checkpoint_dir=tmp_path / "run", resume=True)


def test_rows_that_are_cut_are_counted(
    model: edgepeft.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, over however many passes; not those that were never read; and none where nothing is cut."""
    long = sum(len(json.loads(line)["text"]) + 1 > 20 for line in path.read_text().splitlines())
    held = edgepeft.Trainer(model, arguments(max_steps=20, max_length=20)).fit(path)
    assert held.truncated_rows == long > 5
    stream(monkeypatch)
    streamed = edgepeft.Trainer(model, arguments(max_steps=20, max_length=20)).fit(path)
    assert streamed.truncated_rows == long
    first = edgepeft.Trainer(model, arguments(max_steps=1, max_length=20)).fit(path)
    assert first.truncated_rows <= 4
    assert edgepeft.Trainer(model, arguments(max_steps=1)).fit(path).truncated_rows == 0


def test_a_row_that_streams_is_told_at_its_step(
    model: edgepeft.Model, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row too long ends the run with its line; the checkpoint of the step before stays."""
    with path.open("a") as file:
        file.write(json.dumps({"text": "a" * 100}) + "\n")
    stream(monkeypatch)
    with pytest.raises(DataError, match=r"data.jsonl:31: is 101 tokens long; the model takes 48"):
        edgepeft.Trainer(model, arguments(checkpoint_every=1)).fit(path, checkpoint_dir=tmp_path / "run")


def test_rows_that_turn_out_to_be_many_stream(
    model: edgepeft.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a small file encodes to, or a list of rows, is counted while it is encoded."""
    assert not model.open_data(path).streams
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 10_000)
    monkeypatch.setattr(dataset, "_CHUNK_ROWS", 4)
    assert model.open_data(path).streams
    rows = model.open_data([{"text": "abc"}] * 100)
    assert rows.streams
    assert rows.truncated_rows is None
    assert len(rows.read([99, 0])) == 2


def test_a_window_is_kept_until_the_next(
    model: edgepeft.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grouping encodes each row of a stream once a pass, and holds a window at most."""
    stream(monkeypatch)
    monkeypatch.setattr(limits, "MAX_WINDOW_ROWS", 8)
    rows = model.open_data(path)
    encoded: list[int] = []
    real = rows._records.read

    def counted(indices: list[int]) -> list[tuple[str, dict]]:
        encoded.extend(indices)
        return real(indices)

    monkeypatch.setattr(rows._records, "read", counted)
    settings = arguments(group_by_length=True, gradient_accumulation=1)
    for step in range(1, 16):
        for pick in edgepeft.data.rows_of_step(step, len(rows), settings, rows.lengths):
            assert len(rows.read(pick)) == 2
            assert len(rows._window) <= 8
    assert sorted(encoded) == list(range(30))


def test_a_window_that_is_replaced_meanwhile(
    model: edgepeft.Model, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread does that reads the same data: each gets the rows that it asked for."""
    stream(monkeypatch)
    rows = model.open_data(path)
    expected = [one.row["input_ids"].tolist() for one in rows.read([0, 1, 2])]
    rows.lengths([0, 1])
    real = rows._records.read

    def read(indices: list[int]) -> list[tuple[str, dict]]:
        rows._window = {}
        return real(indices)

    monkeypatch.setattr(rows._records, "read", read)
    assert [one.row["input_ids"].tolist() for one in rows.read([0, 1, 2])] == expected


def test_lengths_need_a_model_that_has_them(handmade: Path) -> None:
    """A model of fixed size is told so, rather than nothing being done."""
    model = edgepeft.load(handmade / "regression")
    data = {"x": np.zeros((2, 3), np.float32), "target": np.zeros((2, 32), np.float32)}
    with pytest.raises(ArgumentError, match="max_length is for rows that have a length"):
        edgepeft.Trainer(model, arguments(max_length=5)).fit(data)
    with pytest.raises(ArgumentError, match="group_by_length is for rows that have a length"):
        edgepeft.Trainer(model, arguments(group_by_length=True)).fit(data)
    with pytest.raises(ArgumentError, match="max_length is 49; this model takes at most 48"):
        edgepeft.Trainer(edgepeft.load(handmade / "chat"), arguments(max_length=49)).fit([{"text": "a"}])
