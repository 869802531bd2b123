"""Training runs: what a step is made of, when a run ends, and with what."""

import dataclasses
import errno
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from training_runs import Rows, arguments, make_rows, same

import edgepeft
from edgepeft import checkpoint, limits, names, training
from edgepeft.adapter import check_values
from edgepeft.arguments import steps_per_epoch, total_steps
from edgepeft.data import rows_of_step
from edgepeft.engines.base import StepResult
from edgepeft.errors import (
    ArgumentError,
    NonFiniteLossError,
    StorageError,
    TrainingError,
)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows()


def test_training_lowers_the_loss_and_the_model_uses_the_result(bundles: Path, rows: Rows) -> None:
    """The losses fall, on what is trained on and in evaluation, and the model answers with the new adapter."""
    model = edgepeft.load(bundles / "tiny-llama")
    before = model.adapter
    result = edgepeft.Trainer(model, arguments(max_steps=30, learning_rate=3e-2)).fit(rows, rows)
    assert result.losses[-1] < result.losses[0] - 0.1
    assert result.evaluation_losses[0][0] == 0
    assert result.evaluation_losses[-1][1] < result.evaluation_losses[0][1] - 0.1
    assert result.steps == len(result.losses) == 30
    assert model.adapter is result.adapter
    assert not same(before, result.adapter)
    assert result.tokens_per_second > 0
    assert result.peak_memory_bytes > 10_000_000


def test_the_best_adapter_is_kept(bundles: Path, rows: Rows) -> None:
    """A rate that is too high ruins the model; the result is the adapter that the lowest held-out loss is of."""
    model = edgepeft.load(bundles / "tiny-llama")
    settings = arguments(learning_rate=0.5, max_steps=6, evaluate_every=1, load_best_model_at_end=True)
    result = edgepeft.Trainer(model, settings).fit(rows, rows[:3])
    losses = [loss for _, loss in result.evaluation_losses]
    assert min(losses) < losses[-1]
    kept = model.evaluate(rows[:3], settings.batch_size)["loss"]
    assert kept == pytest.approx(min(losses), rel=1e-6)
    assert (result.held_out_loss, result.adapter_step) == (min(losses), losses.index(min(losses)))


def test_training_stops_when_the_held_out_loss_no_longer_falls(
    bundles: Path, rows: Rows, tmp_path: Path
) -> None:
    """After `early_stopping_patience` evaluations without a new lowest one, and at once when resumed."""
    settings = arguments(learning_rate=0.5, max_steps=60, evaluate_every=1, early_stopping_patience=3)
    trainer = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), settings)
    result = trainer.fit(rows, rows[:3], checkpoint_dir=tmp_path)
    losses = [loss for _, loss in result.evaluation_losses]
    assert result.stop_reason == "early_stopping"
    assert result.steps < 60
    assert losses.index(min(losses)) == len(losses) - 4
    again = trainer.fit(rows, rows[:3], checkpoint_dir=tmp_path, resume=True)
    assert (again.stop_reason, again.steps) == ("early_stopping", result.steps)
    assert again.evaluation_losses == result.evaluation_losses
    assert same(again.adapter, result.adapter)


def test_a_held_out_loss_that_is_no_number_is_never_the_best(
    handmade: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported as it is, and counts as one that did not fall."""
    model = edgepeft.load(handmade / "chat")
    told = iter([math.nan, 2.0, math.nan, 3.0])
    monkeypatch.setattr(model, "evaluate_dataset", lambda *_: {"loss": next(told)})
    make_stepper, steppers, adapters = model.engine.stepper, [], []
    monkeypatch.setattr(
        model.engine, "stepper", lambda state: steppers.append(make_stepper(state)) or steppers[-1]
    )

    class Watch(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del step, result
            adapters.append(steppers[-1].state().adapter)

    settings = edgepeft.TrainingArguments(
        max_steps=9,
        evaluate_every=1,
        early_stopping_patience=2,
        load_best_model_at_end=True,
        learning_rate=0.1,
    )
    data = [{"text": "hello"}]
    result = edgepeft.Trainer(model, settings).fit(data, data, callbacks=[Watch()])
    assert (result.stop_reason, result.steps) == ("early_stopping", 3)
    assert np.array_equal(
        [loss for _, loss in result.evaluation_losses], [math.nan, 2, math.nan, 3], equal_nan=True
    )
    assert all(np.array_equal(result.adapter.tensors[name], value) for name, value in adapters[0].items())
    told = iter([math.nan, math.nan, math.nan])
    adapters.clear()
    settings = edgepeft.TrainingArguments(max_steps=2, evaluate_every=1, load_best_model_at_end=True)
    result = edgepeft.Trainer(model, settings).fit(data, data, callbacks=[Watch()])
    assert all(np.array_equal(result.adapter.tensors[name], value) for name, value in adapters[-1].items())
    assert result.adapter_step == 2


def test_a_run_that_diverges_is_told_as_such(
    bundles: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that no adapter may have are not saved; the model and the checkpoint are as before that step."""
    model = edgepeft.load(bundles / "tiny-llama")
    before = model.adapter
    largest = max(float(np.abs(value).max()) for value in before.tensors.values())
    monkeypatch.setattr(limits, "MAX_ADAPTER_MAGNITUDE", largest + 0.05)
    for every in (1, None):
        folder = tmp_path / str(every)
        settings = arguments(learning_rate=0.02, max_steps=40, checkpoint_every=every)
        with pytest.raises(
            TrainingError, match=r"step \d+: the run diverged: tensor .* Lower the learning rate"
        ):
            edgepeft.Trainer(model, settings).fit(rows, checkpoint_dir=folder)
        assert model.adapter is before
        assert (folder / training.CHECKPOINT).exists() == (every == 1)
    _, _, state = checkpoint.load(tmp_path / "1" / training.CHECKPOINT, model.bundle.manifest.adapter_shapes)
    check_values(state.adapter)
    assert state.step >= 1


def test_the_time_is_up(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """`max_seconds` ends a call of `fit` after a step; the next call goes on from there with time of its own."""
    model = edgepeft.load(bundles / "tiny-llama")
    whole = edgepeft.Trainer(model, arguments()).fit(rows)
    model.use(model.bundle.initial_adapter())
    first = edgepeft.Trainer(model, arguments(max_seconds=1e-6)).fit(rows, rows[:2], checkpoint_dir=tmp_path)
    assert (first.stop_reason, first.steps) == ("max_seconds", 0)
    assert [step for step, _ in first.evaluation_losses] == [0]
    second = edgepeft.Trainer(model, arguments(max_seconds=600)).fit(
        rows, checkpoint_dir=tmp_path, resume=True
    )
    assert second.stop_reason == "finished"
    assert same(second.adapter, whole.adapter)


def test_the_time_counts_from_the_call(bundles: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the data is part of it."""
    clock = itertools.count()
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    model = edgepeft.load(bundles / "tiny-llama")
    real = model.open_data

    def slow(*given, **named):
        for _ in range(100):
            next(clock)
        return real(*given, **named)

    monkeypatch.setattr(model, "open_data", slow)
    assert edgepeft.Trainer(model, arguments(max_seconds=50)).fit(rows).steps == 0
    assert edgepeft.Trainer(model, arguments(max_seconds=102)).fit(rows).steps > 0


@pytest.mark.parametrize(
    "setting", [{"early_stopping_patience": 2, "evaluate_every": 1}, {"load_best_model_at_end": True}]
)
def test_the_best_needs_rows_to_measure_it(bundles: Path, rows: Rows, setting: dict) -> None:
    """Told before the first step."""
    trainer = edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(**setting))
    with pytest.raises(ArgumentError, match=f"{next(iter(setting))} needs eval_data"):
        trainer.fit(rows)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of 'adamw', 'sgd'. Did you mean 'adamw'?"),
        ({"lr_scheduler_type": "cosin"}, "Did you mean 'cosine'?"),
        ({"lr_scheduler_type": None}, "lr_scheduler_type is None"),
        ({"load_best_model_at_end": "yes"}, "expected one of False, True"),
        ({"warmup_steps": -1}, "expected at least 0"),
        ({"max_seconds": 0}, "expected more than 0"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"early_stopping_patience": 0}, "expected at least 1"),
        ({"early_stopping_patience": 2}, "early_stopping_patience needs evaluate_every, the steps between"),
    ],
)
def test_settings_that_cannot_be(setting: dict, told: str) -> None:
    """Each names the setting, what was expected, and the nearest choice."""
    with pytest.raises(ArgumentError) as caught:
        arguments(**setting)
    assert told in str(caught.value)


def test_the_seed_decides_the_order(bundles: Path, rows: Rows) -> None:
    """The same seed gives the same adapter, another one another."""
    results = [
        edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments(seed=seed)).fit(rows)
        for seed in (3, 3, 4)
    ]
    assert same(results[0].adapter, results[1].adapter)
    assert not same(results[0].adapter, results[2].adapter)


@pytest.mark.parametrize(("rows", "batch", "accumulation"), [(11, 2, 2), (4, 4, 1), (3, 8, 2), (1, 1, 1)])
def test_an_epoch_takes_every_row_once(rows: int, batch: int, accumulation: int) -> None:
    """The batches of an epoch's steps hold each row exactly once, and none is too large."""
    settings = arguments(batch_size=batch, gradient_accumulation=accumulation)
    steps = range(1, steps_per_epoch(rows, settings) + 1)
    batches = [pick for step in steps for pick in rows_of_step(step, rows, settings)]
    assert sorted(index for pick in batches for index in pick) == list(range(rows))
    assert all(0 < len(pick) <= batch for pick in batches)


def test_epochs_make_as_many_steps_as_they_need() -> None:
    """Eleven rows in updates of four make three steps an epoch."""
    settings = edgepeft.TrainingArguments(epochs=5, batch_size=2, gradient_accumulation=2)
    assert total_steps(11, settings) == 15


def test_a_loss_that_is_not_finite_changes_nothing(bundles: Path, tmp_path: Path) -> None:
    """The error names the step; the model keeps its adapter, and the checkpoint is that of the step before."""
    images = [{"image": np.full((1, 8, 8), i, np.float32), "labels": np.array(i)} for i in range(6)]
    images[4]["image"] = np.full((1, 8, 8), 3e38, np.float32)  # finite, and beyond float32 after one product
    model = edgepeft.load(bundles / "conv-net")
    before = model.adapter
    settings = edgepeft.TrainingArguments(max_steps=6, batch_size=1, seed=2, checkpoint_every=1)
    order = [next(rows_of_step(step, 6, settings))[0] for step in range(1, 7)]
    bad = order.index(4) + 1
    assert bad > 1
    with pytest.raises(NonFiniteLossError, match=f"step {bad}: the loss is (nan|inf)"):
        edgepeft.Trainer(model, settings).fit(images, checkpoint_dir=tmp_path)
    assert model.adapter is before
    run, _, state = checkpoint.load(tmp_path / training.CHECKPOINT, model.bundle.manifest.adapter_shapes)
    assert run.step == state.step == bad - 1
    assert all(np.isfinite(value).all() for value in state.adapter.values())


def test_a_row_without_labels_is_told_as_such(bundles: Path) -> None:
    """A batch in which nothing is counted has no loss."""
    row = {"input_ids": np.arange(3, 9), "attention_mask": np.ones(6, np.int64), "labels": np.full(6, -100)}
    with pytest.raises(NonFiniteLossError, match="row without labels"):
        edgepeft.Trainer(edgepeft.load(bundles / "tiny-llama"), arguments()).fit([row])


@pytest.mark.parametrize(
    "setting",
    [
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"batch_size": 0},
        {"gradient_accumulation": 0},
        {"max_steps": 0},
        {"beta1": 1.0},
        {"max_grad_norm": 0.0},
        {"weight_decay": -0.1},
        {"evaluate_every": 0},
        {"seed": -1},
        {"batch_size": 2.5},
        {"max_steps": True},
        {"learning_rate": "fast"},
        {"seed": None},
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict) -> None:
    """The message names the setting, what it was and what is expected."""
    (name,) = setting
    with pytest.raises(ArgumentError, match=f"{name} is .*; expected"):
        arguments(**setting)


def test_epochs_and_steps_exclude_each_other() -> None:
    """Only one can decide how long a run is."""
    with pytest.raises(ArgumentError, match=r"epochs and max_steps"):
        edgepeft.TrainingArguments(epochs=1, max_steps=1)


def test_every_kind_of_model_trains(bundles: Path) -> None:
    """Images by class, with rows of fixed size."""
    generator = np.random.default_rng(1)
    data = [
        {"image": generator.standard_normal((1, 8, 8)).astype(np.float32), "labels": np.array(i % 3)}
        for i in range(9)
    ]
    model = edgepeft.load(bundles / "conv-net")
    before = model.evaluate(data)
    edgepeft.Trainer(model, edgepeft.TrainingArguments(learning_rate=3e-2, epochs=12, batch_size=3)).fit(data)
    after = model.evaluate(data)
    assert after[names.LOSS] < before[names.LOSS] - 0.3
    assert after["accuracy"] > before["accuracy"]


class StopsIn(edgepeft.Callback):
    """Asks the run to stop while the first batch of an evaluation is computed."""

    def __init__(self, trainer: edgepeft.Trainer, monkeypatch: pytest.MonkeyPatch, evaluation: int) -> None:
        self.losses: list[int] = []
        run = trainer.model.engine.run

        def counted(graph: str, *rest: object) -> object:
            if graph == names.EVALUATE and len(self.losses) == evaluation:
                trainer.stop()
            return run(graph, *rest)

        monkeypatch.setattr(trainer.model.engine, "run", counted)

    def on_evaluate(self, step: int, loss: float) -> None:
        del loss
        self.losses.append(step)


@pytest.mark.parametrize("evaluation", [0, 1, 2])
def test_an_evaluation_is_broken_off_and_made_when_resumed(
    tmp_path: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch, evaluation: int
) -> None:
    """Before the training, in its middle and at its end: asked in its first batch, it does not go on to the next."""
    data = {"x": np.eye(3, dtype=np.float32), "labels": np.arange(3)}
    settings = edgepeft.TrainingArguments(max_steps=4, batch_size=1, evaluate_every=2, learning_rate=0.1)
    whole = edgepeft.Trainer(edgepeft.load(handmade / "sensor"), settings).fit(data, data)
    trainer = edgepeft.Trainer(edgepeft.load(handmade / "sensor"), settings)
    with monkeypatch.context() as patch:
        watch = StopsIn(trainer, patch, evaluation)
        first = trainer.fit(data, data, callbacks=[watch], checkpoint_dir=tmp_path)
    assert first.stop_reason == "stopped"
    assert watch.losses == [0, 2, 4][:evaluation]
    assert first.steps == 2 * evaluation
    second = edgepeft.Trainer(edgepeft.load(handmade / "sensor"), settings).fit(
        data, data, checkpoint_dir=tmp_path, resume=True
    )
    assert second.stop_reason == "finished"
    assert second.evaluation_losses == whole.evaluation_losses
    assert same(second.adapter, whole.adapter)


class Swaps(edgepeft.Callback):
    """Has the model use another adapter as soon as the run has begun."""

    def __init__(self, model: edgepeft.Model, other: edgepeft.Adapter) -> None:
        self.model = model
        self.other = other

    def on_data(self, *_: object) -> None:
        self.model.use(self.other)


def test_a_swap_while_training_changes_nothing(handmade: Path) -> None:
    """The result is the adapter that the run began with, trained: its values, its classes, its configuration."""
    data = [
        {"x": np.full(3, place, np.float32), "label": name} for place, name in enumerate(("run", "still"))
    ]
    results = []
    for swaps in (False, True):
        model = edgepeft.load(handmade / "sensor")
        first = model.adapter
        model.use(first.with_labels(["run", "still"]))
        moved = {name: value + np.float32(1) for name, value in first.tensors.items()}
        other = dataclasses.replace(first, tensors=moved, labels=("left", "right"))
        callbacks = [Swaps(model, other)] if swaps else []
        results.append(edgepeft.Trainer(model, arguments(max_steps=2)).fit(data, callbacks=callbacks))
    assert results[1].adapter.labels == ("run", "still")
    assert same(results[0].adapter, results[1].adapter)


class StopsAfter(edgepeft.Callback):
    """Has a run stop after a step."""

    def __init__(self, trainer: edgepeft.Trainer, step: int) -> None:
        self.trainer, self.step = trainer, step

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        if step == self.step:
            self.trainer.stop()


@pytest.mark.parametrize(
    ("helps", "every", "kept"),
    [
        (True, None, 3),  # only what it began with was measured
        (True, 2, 2),  # the best of those measured
        (False, 2, 0),  # training is known to have made it worse
        (False, None, 3),
    ],
)
def test_the_best_of_a_stopped_run(handmade: Path, *, helps: bool, every: int | None, kept: int) -> None:
    """What was learned counts for more than the adapter it began with, unless that was measured as the better."""
    model = edgepeft.load(handmade / "sensor")
    x = np.eye(3, dtype=np.float32)
    said = np.array([one.index for one in model.classify({"x": x})])
    data = {"x": x, "labels": (said + 1) % 3}
    held_out = data if helps else {"x": x, "labels": said}
    settings = edgepeft.TrainingArguments(
        max_steps=8, batch_size=3, learning_rate=0.1, evaluate_every=every, load_best_model_at_end=True
    )
    began = model.adapter
    trainer = edgepeft.Trainer(model, settings)
    result = trainer.fit(data, held_out, callbacks=[StopsAfter(trainer, 3)])
    assert (result.stop_reason, result.steps, result.adapter_step) == ("stopped", 3, kept)
    assert same(result.adapter, began) == (kept == 0)
    assert result.held_out_loss == dict(result.evaluation_losses).get(kept)


def test_a_checkpoint_that_may_not_be_looked_at(handmade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error of ours that says what to do, of a new run and of one to be resumed."""

    def closed(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    trainer = edgepeft.Trainer(edgepeft.load(handmade / "chat"), edgepeft.TrainingArguments(max_steps=1))
    monkeypatch.setattr(Path, "exists", closed)
    for resume in (False, True):
        with pytest.raises(StorageError, match=r"safetensors: .* Permission denied\. Write to a folder that"):
            trainer.fit([{"text": "hello."}], checkpoint_dir="theirs", resume=resume)
