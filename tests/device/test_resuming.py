"""Runs that are cut, fail or are stopped, and go on: nothing is lost, and nothing is mixed up."""

from pathlib import Path

import numpy as np
import pytest
from training_runs import Rows, arguments, make_rows, same

import edgepeft
from edgepeft import checkpoint, store, training
from edgepeft.engines.base import StepResult
from edgepeft.errors import CheckpointError, StorageError


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows()


class Cut(edgepeft.Callback):
    """Stops a run after a step as a power cut would: with no chance to save."""

    def __init__(self, after: int) -> None:
        self._after = after

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        if step > self._after:
            raise KeyboardInterrupt


TWENTY = {"max_steps": 20, "checkpoint_every": 1, "evaluate_every": 3}
SGD = {"optimizer": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "linear"}
RUNS = {
    "adamw": TWENTY | {"lr_scheduler_type": "cosine", "warmup_steps": 4, "weight_decay": 0.1},
    "sgd": TWENTY | SGD,
    "rare checkpoints": TWENTY | SGD | {"checkpoint_every": 6, "evaluate_every": 2},
    "best": TWENTY | {"learning_rate": 0.3, "load_best_model_at_end": True},
}


@pytest.fixture(scope="module", params=RUNS)
def uncut(request: pytest.FixtureRequest, bundles: Path, rows: Rows) -> tuple[dict, edgepeft.TrainingResult]:
    """A run of twenty steps with accumulation and shuffling over seven epochs."""
    settings = RUNS[request.param]
    trainer = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(**settings))
    return settings, trainer.fit(rows, rows[:3])


@pytest.mark.parametrize("cut", range(20))
def test_a_run_cut_at_any_step_ends_as_one_that_was_not(
    bundles: Path, rows: Rows, tmp_path: Path, cut: int, uncut: tuple[dict, edgepeft.TrainingResult]
) -> None:
    """Bit for bit the same adapter and losses, whatever the optimizer, the schedule and what is kept."""
    settings, whole = uncut
    model = edgepeft.load(bundles / "tiny-llama")
    with pytest.raises(KeyboardInterrupt):
        edgepeft.Trainer(model, arguments(**settings)).fit(
            rows, rows[:3], callbacks=[Cut(cut)], checkpoint_dir=tmp_path
        )
    model.use(model.bundle.initial_adapter())
    result = edgepeft.Trainer(model, arguments(**settings)).fit(
        rows, rows[:3], checkpoint_dir=tmp_path, resume=True
    )
    assert same(whole.adapter, result.adapter)
    assert result.losses == whole.losses
    assert result.evaluation_losses == whole.evaluation_losses


class Fail(edgepeft.Callback):
    """Fails once, when a step is told."""

    def __init__(self, at: int) -> None:
        self._at = at

    def on_step_end(self, step: int, result: StepResult) -> None:
        if step == self._at:
            raise RuntimeError(f"could not tell that the loss is {result.loss}")


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 8])
def test_a_callback_that_fails_loses_no_step(bundles: Path, rows: Rows, tmp_path: Path, at: int) -> None:
    """The checkpoint holds the step that could not be told; the resumed run makes the evaluation that was due."""
    settings = arguments(evaluate_every=3, load_best_model_at_end=True, learning_rate=0.3)
    model = edgepeft.load(bundles / "tiny-llama")
    before = model.adapter
    with pytest.raises(RuntimeError, match="could not tell"):
        edgepeft.Trainer(model, settings).fit(rows, rows[:3], callbacks=[Fail(at)], checkpoint_dir=tmp_path)
    assert model.adapter is before
    run, _, _ = checkpoint.load(tmp_path / training.CHECKPOINT, model.bundle.manifest.adapter_shapes)
    assert run.step == at
    resumed = edgepeft.Trainer(model, settings).fit(rows, rows[:3], checkpoint_dir=tmp_path, resume=True)
    model.use(before)
    whole = edgepeft.Trainer(model, settings).fit(rows, rows[:3])
    assert same(whole.adapter, resumed.adapter)
    assert resumed.losses == whole.losses
    assert resumed.evaluation_losses == whole.evaluation_losses


def test_a_callback_fails_and_so_does_the_disk(
    handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callback's error is what is told, with a note that nothing could be saved."""

    def full(path: Path, _: bytes) -> None:
        raise StorageError(f"{path}: cannot be written.")

    monkeypatch.setattr(store, "write_file", full)
    trainer = edgepeft.Trainer(edgepeft.load(handmade / "chat"), arguments())
    with pytest.raises(RuntimeError, match="could not tell") as caught:
        trainer.fit([{"text": "hello"}], callbacks=[Fail(2)], checkpoint_dir=tmp_path)
    assert caught.value.__notes__ == [
        f"Nor could the checkpoint be written: {tmp_path / training.CHECKPOINT}: cannot be written."
    ]


def test_a_new_run_never_replaces_another(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """It is refused before its data is opened; nor does a resumed one that fails at once write anything."""

    class FailsFirst(edgepeft.Callback):
        def on_train_begin(self, total_steps: int, first_step: int) -> None:
            raise RuntimeError(f"{total_steps} steps from {first_step} are too many")

    model = edgepeft.load(bundles / "tiny-llama")
    edgepeft.Trainer(model, arguments()).fit(rows, checkpoint_dir=tmp_path)
    written = (tmp_path / training.CHECKPOINT).read_bytes()
    trainer = edgepeft.Trainer(model, arguments())
    with pytest.raises(CheckpointError, match="holds a run already"):
        trainer.fit("no-such-data.jsonl", checkpoint_dir=tmp_path)
    with pytest.raises(RuntimeError, match="8 steps from 9"):
        trainer.fit(rows, callbacks=[FailsFirst()], checkpoint_dir=tmp_path, resume=True)
    assert (tmp_path / training.CHECKPOINT).read_bytes() == written


def test_a_failure_at_the_end_loses_nothing(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """Every callback is told, the model uses the trained adapter, and the checkpoint is that of the last step."""
    told: list[str] = []

    class Ends(edgepeft.Callback):
        def __init__(self, name: str, *, fails: bool) -> None:
            self._name, self._fails = name, fails

        def on_train_end(self, result: edgepeft.TrainingResult) -> None:
            told.append(f"{self._name} {result.steps}")
            if self._fails:
                raise StorageError("the disk is full.")

    model = edgepeft.load(bundles / "tiny-llama")
    callbacks = [Ends("first", fails=True), Ends("second", fails=False)]
    with pytest.raises(StorageError, match="the disk is full"):
        edgepeft.Trainer(model, arguments()).fit(rows, callbacks=callbacks, checkpoint_dir=tmp_path)
    assert told == ["first 8", "second 8"]
    _, _, state = checkpoint.load(tmp_path / training.CHECKPOINT, model.bundle.manifest.adapter_shapes)
    assert state.step == 8
    assert all(np.array_equal(model.adapter.tensors[name], value) for name, value in state.adapter.items())


def test_a_run_stopped_before_its_first_step_resumes_as_itself(
    bundles: Path, rows: Rows, tmp_path: Path
) -> None:
    """Step 0 is measured once: twice the same loss would be patience spent."""
    settings = arguments(evaluate_every=1, early_stopping_patience=1)
    model = edgepeft.load(bundles / "tiny-llama")
    trainer = edgepeft.Trainer(model, settings)

    class StopAtOnce(edgepeft.Callback):
        def on_train_begin(self, total_steps: int, first_step: int) -> None:
            del total_steps, first_step
            trainer.stop()

    stopped = trainer.fit(rows, rows[:3], callbacks=[StopAtOnce()], checkpoint_dir=tmp_path)
    assert (stopped.stop_reason, stopped.steps) == ("stopped", 0)
    resumed = trainer.fit(rows, rows[:3], checkpoint_dir=tmp_path, resume=True)
    model.use(model.bundle.initial_adapter())
    whole = trainer.fit(rows, rows[:3])
    assert whole.steps > 0
    assert resumed.evaluation_losses == whole.evaluation_losses
    assert same(resumed.adapter, whole.adapter)


def test_a_callback_stops_the_run(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """`Trainer.stop` saves after the running step; the resumed run ends as one that was not stopped."""
    model = edgepeft.load(bundles / "tiny-llama")
    whole = edgepeft.Trainer(model, arguments()).fit(rows)
    model.use(model.bundle.initial_adapter())
    trainer = edgepeft.Trainer(model, arguments())

    class Stop(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del result
            if step == 3:
                trainer.stop()

    stopped = trainer.fit(rows, callbacks=[Stop()], checkpoint_dir=tmp_path)
    assert (stopped.stop_reason, stopped.steps) == ("stopped", 3)
    resumed = trainer.fit(rows, checkpoint_dir=tmp_path, resume=True)
    assert (resumed.stop_reason, resumed.steps) == ("finished", 8)
    assert same(resumed.adapter, whole.adapter)


def test_a_full_disk_keeps_the_checkpoint_before(
    bundles: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with StorageError, and the older checkpoint still resumes to the same end."""
    whole = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(checkpoint_every=1)).fit(rows)
    real, calls = store.write_file, []

    def full_at_third(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) >= 3:
            raise StorageError(f"{path}: cannot be written: No space left on device.")
        real(path, content)

    monkeypatch.setattr(store, "write_file", full_at_third)
    trainer = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(checkpoint_every=1))
    with pytest.raises(StorageError, match="No space left"):
        trainer.fit(rows, checkpoint_dir=tmp_path)
    assert len(calls) == 3  # it is not tried again
    monkeypatch.undo()
    resumed = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(checkpoint_every=1))
    assert same(resumed.fit(rows, checkpoint_dir=tmp_path, resume=True).adapter, whole.adapter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 2e-2}, "learning_rate=0.01, got 0.02"),
        ({"seed": 9}, "seed=3, got 9"),
    ],
)
def test_a_run_resumes_only_as_itself(
    bundles: Path, rows: Rows, tmp_path: Path, change: dict, words: str
) -> None:
    """Other arguments are refused by name."""
    edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments()).fit(rows, checkpoint_dir=tmp_path)
    trainer = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(**change))
    with pytest.raises(CheckpointError, match=words):
        trainer.fit(rows, checkpoint_dir=tmp_path, resume=True)


def test_a_run_resumes_only_with_its_data_and_bundle(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """Other rows, another bundle and a damaged file are refused."""
    edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments()).fit(rows, checkpoint_dir=tmp_path)
    trainer = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments())
    with pytest.raises(CheckpointError, match="other training data"):
        trainer.fit(rows[1:], checkpoint_dir=tmp_path, resume=True)
    trainer.fit(rows, rows[:2], checkpoint_dir=tmp_path, resume=True)
    trainer.fit(rows, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="other held-out data"):
        trainer.fit(rows, rows[:3], checkpoint_dir=tmp_path, resume=True)
    images = [{"image": np.zeros((1, 8, 8), np.float32), "labels": np.array(1)}]
    other = edgepeft.Trainer(edgepeft.load(bundles / "conv-net"), arguments())
    with pytest.raises(CheckpointError, match="not the bundle's"):
        other.fit(images, checkpoint_dir=tmp_path, resume=True)
    path = tmp_path / training.CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors"):
        trainer.fit(rows, checkpoint_dir=tmp_path, resume=True)


def test_resume_without_a_checkpoint_starts_afresh(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """The first start of a program that always resumes."""
    result = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments()).fit(
        rows, checkpoint_dir=tmp_path, resume=True
    )
    assert result.steps == 8


def test_settings_of_numpy_are_plain_values(handmade: Path, tmp_path: Path) -> None:
    """A checkpoint holds them, and a run with Python's own resumes from it."""
    model = edgepeft.load(handmade / "chat")
    plain = {"optimizer": "sgd", "group_by_length": True, "max_steps": 2, "learning_rate": 0.25}
    settings = {
        "optimizer": np.str_("sgd"),
        "group_by_length": np.True_,
        "max_steps": np.int64(2),
        "learning_rate": np.float32(0.25),
    }
    rows = [{"text": "who is it?"}]
    for given in (settings, plain):
        trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(**given))
        assert trainer.fit(rows, checkpoint_dir=tmp_path, resume=True).steps == 2
    assert trainer.arguments == edgepeft.TrainingArguments(**settings)
