"""The bundle on both engines against PyTorch: loss, every gradient, outputs, training, on other shapes than exported."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from pytorch_models import BATCHES, SETTINGS, PyTorchModel
from reference_values import MAX_DRIFT, MAX_ERROR
from remote_engine import PYTHON, RemoteEngine
from small_models import text_batch
from torch import Tensor

import edgepeft
from edgepeft import names
from edgepeft.bundle import Bundle
from edgepeft.data import collate, rows_of_step
from edgepeft.engines.base import Engine, StepResult, StepSettings, TrainState
from edgepeft.engines.stock import StockEngine
from edgepeft_export.verify import relative_error

STEPS = 50


class Pair(PyTorchModel):
    """A small model in PyTorch and as a bundle, with the same adapter."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__(folder.name)
        self.bundle = Bundle.open(folder)
        self.engine = engine


def open_engine(kind: str, folder: Path) -> Engine:
    """An engine on a bundle; that of onnxruntime-training is in another process."""
    if kind == "stock":
        return StockEngine(Bundle.open(folder), threads=2)
    if PYTHON not in os.environ:
        pytest.skip(f"{PYTHON} names no Python that has onnxruntime-training; make test does")
    return RemoteEngine(folder)


class Engines:
    """Opens engines, and closes those that are processes."""

    def __init__(self, bundles: Path) -> None:
        self.bundles = bundles
        self._open: list[Engine] = []

    def engine(self, kind: str, name: str) -> Engine:
        self._open.append(open_engine(kind, self.bundles / name))
        return self._open[-1]

    def pair(self, kind: str, name: str) -> Pair:
        return Pair(self.bundles / name, self.engine(kind, name))

    def model(self, kind: str, name: str) -> edgepeft.Model:
        bundle = Bundle.open(self.bundles / name)
        return edgepeft.Model(bundle, self.engine(kind, name), bundle.initial_adapter())

    def close(self) -> None:
        for engine in self._open:
            if isinstance(engine, RemoteEngine):
                engine.close()


@pytest.fixture
def engines(bundles: Path) -> Iterator[Engines]:
    opened = Engines(bundles)
    yield opened
    opened.close()


@pytest.fixture(params=["stock", "ort-training"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=sorted(BATCHES))
def pair(request: pytest.FixtureRequest, engines: Engines, kind: str) -> Pair:
    return engines.pair(kind, request.param)


def data(batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items()}


def test_loss_and_each_gradient(pair: Pair) -> None:
    """Relative error (largest difference / largest value) of loss and each gradient is at most 1e-5."""
    adapter = pair.engine.prepare(pair.arrays())
    for batch in BATCHES[pair.bundle.path.name]:
        expected = pair.backward(batch)
        got = pair.engine.run(names.TRAIN, data(batch), adapter)
        assert relative_error(got["loss"], expected["loss"].numpy()) <= MAX_ERROR
        assert got["weight"] == expected["weight"].numpy()
        for name, parameter in pair.parameters.items():
            gradient = got[names.gradient(name)]
            assert np.abs(gradient).max() > 0, f"{name} has no gradient: the comparison would prove nothing"
            assert relative_error(gradient, parameter.grad.numpy()) <= MAX_ERROR, name


def test_outputs_and_evaluation(pair: Pair) -> None:
    """Inference and evaluation give PyTorch's outputs and loss where there is no padding."""
    adapter = pair.engine.prepare(pair.arrays())
    for batch in BATCHES[pair.bundle.path.name]:
        expected = pair.backward(batch)
        logits = pair.engine.run(names.INFER, data(batch), adapter)["logits"]
        mask = batch.get("attention_mask")
        kept = slice(None) if mask is None or logits.ndim < 3 else mask.numpy().astype(bool)
        assert relative_error(logits[kept], expected["logits"].numpy()[kept]) <= MAX_ERROR
        evaluated = pair.engine.run(names.EVALUATE, data(batch), adapter)
        assert relative_error(evaluated["loss"], expected["loss"].numpy()) <= MAX_ERROR


def test_fifty_adamw_steps(pair: Pair) -> None:
    """The loss stays within 1e-4 of torch.optim.AdamW's at every one of 50 steps on the same batches."""
    start = pair.arrays()
    stepper = pair.engine.stepper(TrainState.fresh("adamw", start))
    batches = BATCHES[pair.bundle.path.name]
    for index, (loss, norm) in enumerate(pair.adamw(batches, STEPS, SETTINGS)):
        result = stepper.step([data(batches[index % len(batches)])], StepSettings(**SETTINGS))
        assert abs(result.loss - loss) <= MAX_DRIFT, f"step {index + 1}"
        assert result.gradient_norm == pytest.approx(norm, rel=1e-3)
    moved = stepper.state().adapter
    assert max(np.abs(moved[name] - start[name]).max() for name in start) > 0.01


TRAININGS = {
    "adamw": {"weight_decay": 0.1, "lr_scheduler_type": "linear", "warmup_steps": 5},
    "adamw-accumulated": {"gradient_accumulation": 2, "lr_scheduler_type": "cosine", "max_grad_norm": 0.1},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.01, "warmup_steps": 10},
    "sgd-accumulated": {
        "optimizer": "sgd",
        "learning_rate": 0.2,
        "momentum": 0.5,
        "gradient_accumulation": 3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
    },
}


def training(
    recipe: str,
) -> tuple[edgepeft.TrainingArguments, dict[str, Tensor], list[dict[str, np.ndarray]]]:
    """Settings, nine rows as one batch, and the same as rows."""
    settings = edgepeft.TrainingArguments(
        **({"learning_rate": 1e-2, "batch_size": 2, "max_steps": STEPS, "seed": 4} | TRAININGS[recipe])
    )
    whole = text_batch(9, 20, seed=6)
    return settings, whole, [{name: value[row].numpy() for name, value in whole.items()} for row in range(9)]


def pytorch_losses(pair: Pair, settings: edgepeft.TrainingArguments, whole: dict[str, Tensor]) -> list[float]:
    """The loss of each step, as PyTorch and transformers train from the bundle's own adapter."""
    initial = pair.bundle.initial_adapter().tensors
    with torch.no_grad():
        for name, parameter in pair.parameters.items():
            parameter.copy_(torch.from_numpy(np.array(initial[name])))
    parameters = list(pair.parameters.values())
    kinds: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay),
        "sgd": torch.optim.SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        ),
    }
    optimizer = kinds[settings.optimizer]
    name = settings.lr_scheduler_type
    scheduler = transformers.get_scheduler(
        "constant_with_warmup" if name == "constant" else name, optimizer, settings.warmup_steps, STEPS
    )
    losses = []
    rows = len(whole["input_ids"])
    for step in range(1, STEPS + 1):
        picked = [index for pick in rows_of_step(step, rows, settings) for index in pick]
        losses.append(float(pair.backward({name: value[picked] for name, value in whole.items()})["loss"]))
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        scheduler.step()
    return losses


@pytest.mark.parametrize("recipe", TRAININGS)
def test_fifty_steps_of_the_trainer(engines: Engines, kind: str, recipe: str) -> None:
    """Schedules, accumulation, clipping and both optimizers: the loss stays within 1e-4 of PyTorch's own."""
    settings, whole, rows = training(recipe)
    model = engines.model(kind, "tiny-llama")
    losses = edgepeft.Trainer(model, settings).fit(rows).losses
    expected = pytorch_losses(engines.pair("stock", "tiny-llama"), settings, whole)
    assert np.abs(np.subtract(losses, expected)).max() <= MAX_DRIFT
    assert abs(losses[-1] - losses[0]) > 10 * MAX_DRIFT


class StopAt(edgepeft.Callback):
    """Ends a run in its middle."""

    def __init__(self, trainer: edgepeft.Trainer, step: int) -> None:
        self._trainer, self._step = trainer, step

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        if step == self._step:
            self._trainer.stop()


@pytest.mark.parametrize("recipe", TRAININGS)
@pytest.mark.parametrize("order", [("stock", "ort-training"), ("ort-training", "stock")])
def test_a_run_goes_on_on_the_other_engine(
    engines: Engines, tmp_path: Path, order: tuple[str, str], recipe: str
) -> None:
    """25 steps on one, a checkpoint, 25 on the other: the loss stays within 1e-4 of 50 steps of PyTorch."""
    settings, whole, rows = training(recipe)
    first, second = (engines.model(kind, "tiny-llama") for kind in order)
    trainer = edgepeft.Trainer(first, settings)
    begun = trainer.fit(rows, callbacks=[StopAt(trainer, STEPS // 2)], checkpoint_dir=tmp_path)
    assert (begun.steps, first.engine.name) == (STEPS // 2, order[0])
    done = edgepeft.Trainer(second, settings).fit(rows, checkpoint_dir=tmp_path, resume=True)
    assert (done.steps, second.engine.name) == (STEPS, order[1])
    expected = pytorch_losses(engines.pair("stock", "tiny-llama"), settings, whole)
    assert np.abs(np.subtract(done.losses, expected)).max() <= MAX_DRIFT


def test_accumulation_weighs_tokens(engines: Engines, kind: str) -> None:
    """Four batches of two unequal rows give the update that one batch of eight gives in PyTorch."""
    pair = engines.pair(kind, "tiny-llama")
    whole = text_batch(8, 24, seed=9)
    for row in range(8):
        whole["attention_mask"][row, 5 + 2 * row :] = 0
        whole["labels"][row, 5 + 2 * row :] = -100
    parts = [{name: value[i : i + 2] for name, value in whole.items()} for i in range(0, 8, 2)]
    start = pair.arrays()
    stepper = pair.engine.stepper(TrainState.fresh("adamw", start))
    result = stepper.step([data(part) for part in parts], StepSettings(1e-3))
    expected = pair.backward(whole)
    assert result.loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    for name, mean in stepper.state().slots["exp_avg"].items():  # a tenth of the gradient after one step
        assert relative_error(mean * 10, pair.parameters[name].grad.numpy()) <= MAX_ERROR, name


def test_four_batches_of_two_are_one_of_eight(engines: Engines, kind: str) -> None:
    """Rows of unequal length, each batch padded to its own longest: PyTorch's gradient of all eight, to 1e-5."""
    pair = engines.pair(kind, "tiny-llama")
    whole = text_batch(8, 24, seed=9)
    lengths = [5, 24, 3, 11, 8, 17, 2, 9]
    rows = [
        {name: value[row, :length].numpy() for name, value in whole.items()}
        for row, length in enumerate(lengths)
    ]
    for row in (2, 7):
        rows[row]["labels"] = np.where(np.arange(lengths[row]) < 2, -100, rows[row]["labels"])
    ports = pair.bundle.manifest.data_inputs(names.TRAIN)
    stepper = pair.engine.stepper(TrainState.fresh("adamw", pair.arrays()))
    parts = [collate(rows[first : first + 2], ports, 0) for first in range(0, 8, 2)]
    assert len({part["input_ids"].shape for part in parts}) > 2
    result = stepper.step(parts, StepSettings(1e-3))
    together = {name: torch.from_numpy(value) for name, value in collate(rows, ports, 0).items()}
    expected = pair.backward(together)
    assert result.loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert result.weight == float(expected["weight"])
    for name, mean in stepper.state().slots["exp_avg"].items():  # a tenth of the gradient after one step
        assert relative_error(mean * 10, pair.parameters[name].grad.numpy()) <= MAX_ERROR, name
