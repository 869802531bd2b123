"""The training loop: which rows make which step, and what is done after each."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edgepeft import checkpoint, memory, names
from edgepeft.adapter import Adapter
from edgepeft.data import Data, Row, fingerprint, read_rows
from edgepeft.engines.base import StepResult, StepSettings, TrainState
from edgepeft.errors import ArgumentError, CheckpointError
from edgepeft.model import Model

#: Name of the checkpoint in its folder.
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """How to train, in the words of Hugging Face's `TrainingArguments` and of `torch.optim.AdamW`.

    Attributes:
        learning_rate: AdamW's step size.
        epochs: Passes over the data; give this or `max_steps`.
        max_steps: Updates to make.
        batch_size: Rows that are run at once.
        gradient_accumulation: Batches that make one update, each weighted by the tokens or rows it counts.
        beta1: Decay of AdamW's mean of gradients.
        beta2: Decay of AdamW's mean of squared gradients.
        epsilon: AdamW's guard against division by zero.
        weight_decay: AdamW's decoupled decay.
        max_grad_norm: Largest global norm of the gradient; infinity for no clipping.
        seed: Seed of the order of rows.
        evaluate_every: Steps between evaluations; by default once, at the end.
        checkpoint_every: Steps between checkpoints; by default once, at the end.

    Raises:
        ArgumentError: A setting is out of range.
    """

    learning_rate: float = 2e-4
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 4
    gradient_accumulation: int = 1
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    evaluate_every: int | None = None
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.max_steps is None:
            object.__setattr__(self, "epochs", DEFAULT_EPOCHS)
        if self.epochs is not None and self.max_steps is not None:
            raise ArgumentError("epochs and max_steps are both given; expected one of them.")
        for name, bounds in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, bounds.checked(name, value))

    def settings(self) -> StepSettings:
        """The hyperparameters of an update."""
        return StepSettings(
            self.learning_rate, self.beta1, self.beta2, self.epsilon, self.weight_decay, self.max_grad_norm
        )


DEFAULT_EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class _Range:
    """What a setting may be: whole or not, from `lowest` (or just above it) to `highest`."""

    lowest: float
    highest: float
    whole: bool = False
    above_lowest: bool = False

    def checked(self, name: str, value: object) -> float:
        """The value as Python's own int or float."""
        kind, expected = (Integral, "a whole number") if self.whole else (Real, "a number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ArgumentError(f"{name} is {value!r}; expected {expected}.")
        number = int(value) if self.whole else float(value)  # type: ignore[call-overload]
        fits = number > self.lowest if self.above_lowest else number >= self.lowest
        if not (fits and number <= self.highest):
            relation = "more than" if self.above_lowest else "at least"
            raise ArgumentError(
                f"{name} is {number}; expected {relation} {self.lowest:g} and at most {self.highest:g}."
            )
        return number


_COUNT = _Range(lowest=1, highest=10**9, whole=True)
_ROWS = _Range(lowest=1, highest=1 << 16, whole=True)

_RANGES: dict[str, _Range] = {
    "learning_rate": _Range(lowest=0, highest=1e3, above_lowest=True),
    "epochs": _COUNT,
    "max_steps": _COUNT,
    "batch_size": _ROWS,
    "gradient_accumulation": _ROWS,
    "beta1": _Range(lowest=0, highest=1 - 1e-9),
    "beta2": _Range(lowest=0, highest=1 - 1e-12),
    "epsilon": _Range(lowest=0, highest=1, above_lowest=True),
    "weight_decay": _Range(lowest=0, highest=1e3),
    "max_grad_norm": _Range(lowest=0, highest=math.inf, above_lowest=True),
    "seed": _Range(lowest=0, highest=2**63 - 1, whole=True),
    "evaluate_every": _COUNT,
    "checkpoint_every": _COUNT,
}
_OPTIONAL = {"epochs", "max_steps", "evaluate_every", "checkpoint_every"}


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave.

    Attributes:
        adapter: The trained adapter.
        losses: Loss of each step, before its update.
        evaluation_losses: Step and loss of each evaluation; step 0 is before training.
        steps: Updates made, resumed ones included.
        seconds: Time spent in updates.
        samples_per_second: Rows trained on, a second.
        tokens_per_second: Places of the padded batches that were computed, a second; 0 without tokens.
        peak_memory_bytes: Largest resident size of the process so far.
        stop_reason: Why the run ended.
        seconds_per_step: Mean time of an update.
    """

    adapter: Adapter
    losses: list[float]
    evaluation_losses: list[tuple[int, float]]
    steps: int
    seconds: float
    samples_per_second: float
    tokens_per_second: float
    peak_memory_bytes: int
    stop_reason: Literal["finished"]

    @property
    def seconds_per_step(self) -> float:  # noqa: D102 - among the attributes above
        return self.seconds / self.steps


class Callback:
    """Told what happens during training; override what you need."""

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Before the first step; `first_step` is larger than 1 in a resumed run."""

    def on_step_end(self, step: int, result: StepResult) -> None:
        """After an update; steps count from 1."""

    def on_evaluate(self, step: int, loss: float) -> None:
        """After an evaluation."""

    def on_train_end(self, result: TrainingResult) -> None:
        """After the last step."""

    def close(self) -> None:
        """After all else, also when training failed: give back what you hold, such as a file or the terminal."""


def steps_per_epoch(rows: int, arguments: TrainingArguments) -> int:
    """Updates that one pass over the rows makes."""
    return math.ceil(rows / (arguments.batch_size * arguments.gradient_accumulation))


def total_steps(rows: int, arguments: TrainingArguments) -> int:
    """Updates of the whole run."""
    if arguments.max_steps is not None:
        return arguments.max_steps
    assert arguments.epochs is not None
    return arguments.epochs * steps_per_epoch(rows, arguments)


def rows_of_step(step: int, rows: int, arguments: TrainingArguments) -> Iterator[list[int]]:
    """Indices of the rows of each batch of a step, counted from 1: a function of the seed alone."""
    each = steps_per_epoch(rows, arguments)
    epoch, place = divmod(step - 1, each)
    order = np.random.Generator(np.random.PCG64([arguments.seed, epoch])).permutation(rows).tolist()
    size = arguments.batch_size
    start = place * size * arguments.gradient_accumulation
    end = min(rows, start + size * arguments.gradient_accumulation)
    return (order[index : min(end, index + size)] for index in range(start, end, size))


class Trainer:
    """Trains a model's adapter. The model uses the trained adapter afterwards.

    Args:
        model: The model; its adapter is where training starts.
        arguments: How to train.
    """

    def __init__(self, model: Model, arguments: TrainingArguments) -> None:
        self.model = model
        self.arguments = arguments

    def fit(
        self,
        train_data: Data,
        eval_data: Data | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TrainingResult:
        """Trains to the end.

        Args:
            train_data: A JSON Lines file, or an iterable of records like its lines or of mappings of arrays.
            eval_data: The same, for the loss on rows that are not trained on.
            callbacks: Told what happens.
            checkpoint_dir: Folder of the checkpoint, written every `checkpoint_every` steps and at the end.
            resume: Whether to go on from the checkpoint in `checkpoint_dir`, if there is one.

        Raises:
            DataError: A row is unusable; the message says which.
            NonFiniteLossError: The loss became NaN or infinite; the model keeps the adapter it had.
            CheckpointError: The checkpoint is of another run.
            StorageError: The checkpoint could not be written; the one before is untouched.
        """
        if resume and checkpoint_dir is None:
            raise ArgumentError("resume needs checkpoint_dir, the folder of the checkpoint.")
        manifest = self.model.bundle.manifest
        rows = read_rows(train_data, manifest, self.model.text)
        held_out = None if eval_data is None else read_rows(eval_data, manifest, self.model.text)
        run, history, state = self._start(rows, checkpoint_dir, resume=resume)
        loop = _Loop(
            self.model, self.arguments, rows, held_out, callbacks, checkpoint_dir, run, history, state
        )
        with contextlib.ExitStack() as stack:
            for callback in callbacks:
                stack.callback(callback.close)
            result = loop.run_to_end()
            self.model.use(result.adapter)
            for callback in callbacks:
                callback.on_train_end(result)
        return result

    def _start(
        self, rows: Sequence[Row], checkpoint_dir: str | os.PathLike[str] | None, *, resume: bool
    ) -> tuple[checkpoint.Run, checkpoint.History, TrainState]:
        """The run's beginning: from the model's adapter, or where the checkpoint left it."""
        manifest = self.model.bundle.manifest
        arguments = {
            name: None if value == math.inf else value  # JSON has no infinity
            for name, value in dataclasses.asdict(self.arguments).items()
        }
        fresh = checkpoint.Run(manifest.base_id, arguments, fingerprint(rows), 0, 0.0)
        path = None if checkpoint_dir is None else Path(checkpoint_dir) / CHECKPOINT
        if resume and path is not None and path.exists():
            run, history, state = checkpoint.load(path, manifest.adapter_names)
            _check_same(run, fresh, path)
            return run, history, state
        tensors = self.model.adapter.tensors
        zeros = {name: np.zeros_like(value) for name, value in tensors.items()}
        return fresh, checkpoint.History([], []), TrainState(tensors, zeros, zeros, step=0)


def _check_same(run: checkpoint.Run, fresh: checkpoint.Run, path: Path) -> None:
    """A resumed run must be the run that was cut."""
    if run.base_id != fresh.base_id:
        raise CheckpointError(f"{path}: was made on another bundle. Resume with that one.")
    if run.data != fresh.data:
        raise CheckpointError(
            f"{path}: was made with other training data. Resume with that data, or start afresh."
        )
    for name, value in fresh.arguments.items():
        if run.arguments.get(name) != value:
            raise CheckpointError(
                f"{path}: was made with {name}={run.arguments.get(name)}, got {value}. "
                "Resume with the same arguments, or start afresh."
            )


class _Loop:
    """One call of `fit`: the stepper and what has been recorded so far."""

    def __init__(
        self,
        model: Model,
        arguments: TrainingArguments,
        rows: Sequence[Row],
        held_out: Sequence[Row] | None,
        callbacks: Sequence[Callback],
        checkpoint_dir: str | os.PathLike[str] | None,
        run: checkpoint.Run,
        history: checkpoint.History,
        state: TrainState,
    ) -> None:
        self._model = model
        self._arguments = arguments
        self._rows = rows
        self._held_out = held_out
        self._callbacks = callbacks
        self._path = None if checkpoint_dir is None else Path(checkpoint_dir) / CHECKPOINT
        self._run = run
        self._stepper = model.engine.stepper(state)
        self._losses = list(history.losses)
        self._evaluation_losses = list(history.evaluation_losses)
        self._seconds = run.seconds
        self._samples = 0
        self._tokens = 0

    def run_to_end(self) -> TrainingResult:
        total = total_steps(len(self._rows), self._arguments)
        first = self._run.step + 1
        for callback in self._callbacks:
            callback.on_train_begin(total, first)
        if first == 1:
            self._evaluate(0)
        before = self._seconds
        for step in range(first, total + 1):
            self._advance(step)
            if _due(step, self._arguments.evaluate_every, total):
                self._evaluate(step)
            if _due(step, self._arguments.checkpoint_every, total):
                self._save(step)
        spent = max(self._seconds - before, 1e-9)
        state = self._stepper.state()
        adapter = Adapter(state.adapter, self._model.adapter.config, self._run.base_id)
        return TrainingResult(
            adapter=adapter,
            losses=self._losses,
            evaluation_losses=self._evaluation_losses,
            steps=state.step,
            seconds=self._seconds,
            samples_per_second=self._samples / spent,
            tokens_per_second=self._tokens / spent,
            peak_memory_bytes=memory.peak_bytes(),
            stop_reason="finished",
        )

    def _advance(self, step: int) -> None:
        picks = rows_of_step(step, len(self._rows), self._arguments)
        batches = [self._model.collate([self._rows[index] for index in pick]) for pick in picks]
        started = time.perf_counter()
        result = self._stepper.step(batches, self._arguments.settings())
        self._seconds += time.perf_counter() - started
        self._losses.append(result.loss)
        self._samples += sum(len(next(iter(batch.values()))) for batch in batches)
        self._tokens += sum(batch["input_ids"].size for batch in batches if "input_ids" in batch)
        for callback in self._callbacks:
            callback.on_step_end(step, result)

    def _evaluate(self, step: int) -> None:
        if self._held_out is None:
            return
        prepared = self._model.engine.prepare(self._stepper.state().adapter)
        loss = self._model.evaluate_rows(self._held_out, self._arguments.batch_size, prepared)[names.LOSS]
        self._evaluation_losses.append((step, loss))
        for callback in self._callbacks:
            callback.on_evaluate(step, loss)

    def _save(self, step: int) -> None:
        if self._path is None:
            return
        run = msgspec.structs.replace(self._run, step=step, seconds=self._seconds)
        history = checkpoint.History(self._losses, self._evaluation_losses)
        checkpoint.save(self._path, run, history, self._stepper.state())


def _due(step: int, every: int | None, total: int) -> bool:
    """Whether something that is done every so many steps, and at the end, is due."""
    return step == total or (every is not None and step % every == 0)
