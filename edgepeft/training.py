"""The training loop: which rows make which step, and what is done after each."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgepeft import checkpoint, memory, names, signals, store
from edgepeft.adapter import Adapter, check_values
from edgepeft.arguments import TrainingArguments, steps_per_epoch, total_steps
from edgepeft.callbacks import Callback, StopReason, TrainingResult
from edgepeft.data import Data, Dataset, rows_of_step
from edgepeft.engines.base import TrainState
from edgepeft.errors import AdapterError, ArgumentError, CheckpointError, EdgepeftError, TrainingError
from edgepeft.guest import Guest, Pauses, Planning, low_priority
from edgepeft.model import Model

#: Name of the checkpoint in its folder.
CHECKPOINT = "checkpoint.safetensors"

#: Settings that a resumed run may change: they say when to pause, not what is computed.
_MAY_CHANGE = ("max_seconds", "checkpoint_every")


class Trainer:
    """Trains a model's adapter. The model uses the trained adapter afterwards.

    Args:
        model: The model; its adapter is where training starts.
        arguments: How to train.

    Attributes:
        began_with: The adapter that the last `fit` started from.
    """

    def __init__(self, model: Model, arguments: TrainingArguments) -> None:
        self.model = model
        self.arguments = arguments
        self.began_with = model.adapter
        self._stopping = False  # no event: a signal may come while its lock is held
        self._wait_until_well: Callable[[], None] = lambda: None

    def stop(self) -> None:
        """Has a running `fit` save and return after the running step; for callbacks and other threads.

        An evaluation that is running is broken off, and not counted. `fit` does not heed a call that came before it:
        where another thread may call early, ask in `Callback.on_data`, and call again there.
        """
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether the last `fit` was asked to stop."""
        return self._stopping

    def wait_until_well(self) -> None:
        """Waits, as the guest of the running `fit` does, while the machine is unwell; for callbacks that compute."""
        self._wait_until_well()

    def fit(
        self,
        train_data: Data,
        eval_data: Data | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        guest: Guest | None = None,
    ) -> TrainingResult:
        """Trains until a limit is reached or it is told to stop.

        In the main thread of a program that does not handle them itself, Ctrl-C and SIGTERM stop the run as `stop`
        does; a second one ends the program at once, and what was saved stays.

        Args:
            train_data: A file or folder, columns by name, or rows: docs/data.md shows every kind.
            eval_data: The same, for the loss on rows that are not trained on.
            callbacks: Told what happens.
            checkpoint_dir: Folder of the checkpoint, written every `checkpoint_every` steps and when the run ends. Without
                `resume` there must be none in it: a new run never replaces another's.
            resume: Whether to go on from the checkpoint in `checkpoint_dir`, if there is one.
            guest: How to behave on a machine that has little memory, or that suffers from heat, a weak supply or a low
                battery; by default none of that is heeded.

        Raises:
            ArgumentError: A setting needs `eval_data` or `checkpoint_dir`, and there is none.
            BundleError: The bundle lacks a graph that training takes.
            DataError: A row is unusable; the message says which. Data that streams can tell it in the middle of a
                run; the last checkpoint stays.
            NonFiniteLossError: The loss became NaN or infinite; the model keeps the adapter it had.
            TrainingError: The adapter's values grew beyond use; likewise.
            MemoryLimitError: Not even one row at a time fits into the memory that the guest may take.
            CheckpointError: The checkpoint is of another run, or there is one and `resume` was not asked for.
            StorageError: The checkpoint could not be written; the one before is untouched.
        """
        started = time.monotonic()
        self._stopping = False
        with contextlib.ExitStack() as stack:
            for callback in callbacks:
                stack.callback(callback.close)
            if guest is not None:
                stack.enter_context(low_priority(guest.nice, lambda: self.model.engine.workers))
            path = None if checkpoint_dir is None else Path(checkpoint_dir) / CHECKPOINT
            self._check_needs(eval_data, path, resume=resume)
            adapter = self.began_with = (
                self.model.adapter
            )  # whatever the model uses meanwhile, this is the one that is trained
            most = self.arguments.max_length
            rows = self.model.open_data(train_data, most, adapter=adapter)
            if self.arguments.group_by_length and not rows.varies:
                raise ArgumentError("group_by_length is for rows that have a length; this model's have none.")
            held_out = None if eval_data is None else self.model.open_data(eval_data, most, adapter=adapter)
            for callback in callbacks:
                callback.on_data(rows, held_out)
            held = memory.resident()  # before the state, which the prediction counts
            run, history, state = self._start(adapter, rows, held_out, path)
            planning = Planning(
                guest, self.model.bundle.manifest, self.model.engine.name, self.arguments, held
            )
            if planning.heeds:
                planning.longer(_longest(most, rows, held_out))
            pauses = Pauses(guest, callbacks, lambda: self._stopping)
            loop = _Loop(
                self.model,
                adapter,
                self.arguments,
                rows,
                held_out,
                callbacks,
                path,
                run,
                history,
                state,
                lambda: self._stopping,
                pauses,
                planning,
            )
            stack.callback(lambda: memory.keep(held.now, planning.plan.kept_bytes))
            self._wait_until_well = lambda: pauses.wait(loop.step, lambda: False)
            stack.callback(setattr, self, "_wait_until_well", lambda: None)
            stack.enter_context(
                signals.first_calls(
                    self.stop, self.model.engine.break_off, lambda: _tell_of_signal(callbacks)
                )
            )
            result = loop.run_to_end(started)
            self.model.use(result.adapter)
            with contextlib.ExitStack() as ending:  # each is told, also if one fails
                for callback in reversed(callbacks):
                    ending.callback(callback.on_train_end, result)
        return result

    def _check_needs(self, eval_data: Data | None, path: Path | None, *, resume: bool) -> None:
        """What would be missed later is missed at once."""
        if resume and path is None:
            raise ArgumentError("resume=True needs checkpoint_dir, the folder of the checkpoint.")
        if path is not None and _exists(path) and not resume:
            raise CheckpointError(
                f"{path}: holds a run already, which a new one would replace. Go on with it by resume=True, delete "
                "it, or choose another folder."
            )
        for name in ("load_best_model_at_end", "early_stopping_patience"):
            if eval_data is None and getattr(self.arguments, name):
                raise ArgumentError(f"{name} needs eval_data, the rows to measure the loss on.")
        needed = {
            names.TRAIN: True,
            names.update_graph(self.arguments.optimizer): True,
            names.ACCUMULATE: self.arguments.gradient_accumulation > 1,
            names.EVALUATE: eval_data is not None,
        }
        for graph in (graph for graph, wanted in needed.items() if wanted):
            self.model.bundle.manifest.graph(graph)

    def _start(
        self, adapter: Adapter, rows: Dataset, held_out: Dataset | None, path: Path | None
    ) -> tuple[checkpoint.Run, checkpoint.History, TrainState]:
        """The run's beginning: from an adapter, or where the checkpoint at `path` left it."""
        manifest = self.model.bundle.manifest
        arguments = {
            name: None if value == math.inf else value  # JSON has no infinity
            for name, value in dataclasses.asdict(self.arguments).items()
        }
        fresh = checkpoint.Run(
            base_id=manifest.base_id,
            arguments=arguments,
            data=rows.fingerprint(),
            held_out=None if held_out is None else held_out.fingerprint(),
            step=0,
            seconds=0.0,
        )
        if path is not None and _exists(path):
            run, history, state = checkpoint.load(path, manifest.adapter_shapes)
            _check_same(run, fresh, path)
            return msgspec.structs.replace(run, held_out=run.held_out or fresh.held_out), history, state
        state = TrainState.fresh(self.arguments.optimizer, adapter.tensors)
        return fresh, checkpoint.History([], [], None), state


def _exists(path: Path) -> bool:
    """Whether there is a checkpoint; a folder that may not be looked into could not take one either."""
    with store.refusals(path):
        return path.exists()


def _tell_of_signal(callbacks: Sequence[Callback]) -> None:
    """Tells each, also if one fails."""
    for callback in callbacks:
        with contextlib.suppress(Exception):
            callback.on_signal()


def _check_same(run: checkpoint.Run, fresh: checkpoint.Run, path: Path) -> None:
    """A resumed run must be the run that was cut."""
    if run.base_id != fresh.base_id:
        raise CheckpointError(f"{path}: was made on another bundle. Resume with that one.")
    if run.data != fresh.data:
        raise CheckpointError(
            f"{path}: was made with other training data. Resume with that data, or start afresh."
        )
    if None not in (run.held_out, fresh.held_out) and run.held_out != fresh.held_out:
        raise CheckpointError(
            f"{path}: was made with other held-out data. Resume with that data or with none, or start afresh."
        )
    for name, value in fresh.arguments.items():
        if name not in _MAY_CHANGE and run.arguments.get(name) != value:
            raise CheckpointError(
                f"{path}: was made with {name}={run.arguments.get(name)}, got {value}. "
                "Resume with the same arguments, or start afresh."
            )


class _BrokenOffError(Exception):
    """An evaluation whose result nobody waits for."""


class _Loop:
    """One call of `fit`: the stepper and what has been recorded so far."""

    def __init__(
        self,
        model: Model,
        adapter: Adapter,
        arguments: TrainingArguments,
        rows: Dataset,
        held_out: Dataset | None,
        callbacks: Sequence[Callback],
        path: Path | None,
        run: checkpoint.Run,
        history: checkpoint.History,
        state: TrainState,
        stopping: Callable[[], bool],
        pauses: Pauses,
        planning: Planning,
    ) -> None:
        self._stopping = stopping
        self._pauses = pauses
        self._planning = planning
        self._model = model
        self._adapter = adapter
        self._arguments = arguments
        self._rows = rows
        self._total = total_steps(len(rows), arguments)
        self._held_out = held_out
        self._callbacks = callbacks
        self._path = path
        self._run = run
        self._stepper = model.engine.stepper(state)
        self.step = self._tried = run.step  # the last step that was to be saved
        self._history = history
        self._seconds = run.seconds
        each = steps_per_epoch(len(rows), arguments)
        self._first_pass_ends = (run.step // each + 1) * each
        self._truncated = 0
        self._samples = 0
        self._tokens = 0
        self._has_tokens = any(
            port.name == "input_ids" for port in model.bundle.manifest.data_inputs(names.TRAIN)
        )

    def run_to_end(self, started: float) -> TrainingResult:
        """Steps until there is a reason to stop, then saves and measures.

        An error of a callback, of the disk or of a step leaves a checkpoint of what was done before it. Ctrl-C that
        comes as an exception does not: it is a second one, and wants the end at once.
        """
        try:
            return self._steps(started)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self._path is not None and self.step > self._tried:
                try:
                    self._save()
                    error.add_note(f"Step {self.step} is saved: resume=True goes on from there.")
                except EdgepeftError as second:
                    error.add_note(f"Nor could the checkpoint be written: {second}")
            raise

    def _steps(self, started: float) -> TrainingResult:
        for callback in self._callbacks:
            callback.on_train_begin(self._total, self.step + 1)
        if self._planning.plan.rows < self._arguments.batch_size:
            self._tell_of_plan()
        self._evaluate_if_due()
        while (reason := self._reason_to_stop(time.monotonic() - started - self._pauses.seconds)) is None:
            self._pause_if_unwell()
            if self._stopping():
                continue
            self._advance()
            self._evaluate_if_due()
            if _due(self.step, self._arguments.checkpoint_every) and self.step < self._total:
                self._save()
        self._save()  # before the last evaluation, which a run that is resumed here would not have made
        if reason == "stopped" or not self._evaluate():
            return self._result("stopped")
        return self._result(reason)

    def _tell_of_plan(self) -> None:
        plan = self._planning.plan
        for callback in self._callbacks:
            callback.on_shrink(plan.rows, plan.expected_bytes, plan.limit_bytes)

    def _reason_to_stop(self, elapsed: float) -> StopReason | None:
        patience, limit = self._arguments.early_stopping_patience, self._arguments.max_seconds
        reasons: dict[StopReason, bool] = {
            "finished": self.step >= self._total,
            "early_stopping": patience is not None
            and since_best(self._history.losses_held_out()) >= patience,
            "max_seconds": limit is not None and elapsed >= limit,
            "stopped": self._stopping(),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _advance(self) -> None:
        picks = list(rows_of_step(self.step + 1, len(self._rows), self._arguments, self._rows.lengths))
        if self._rows.streams and self._planning.heeds:  # of these, not all were looked at before
            longest = max(length for pick in picks for length in self._rows.lengths(pick))
            if self._planning.longer(longest):
                self._tell_of_plan()
        size = self._planning.plan.rows
        encoded = [
            self._rows.read(pick[start : start + size])
            for pick in picks
            for start in range(0, len(pick), size)
        ]
        batches = [self._model.collate([one.row for one in rows]) for rows in encoded]
        started = time.perf_counter()
        result = self._stepper.step(batches, self._arguments.settings(self.step + 1, self._total))
        self._seconds += time.perf_counter() - started
        if self.step < self._first_pass_ends:
            self._truncated += sum(one.truncated for rows in encoded for one in rows)
        self.step += 1
        self._history.losses.append(result.loss)
        self._samples += sum(len(next(iter(batch.values()))) for batch in batches)
        self._tokens += sum(batch["input_ids"].size for batch in batches if "input_ids" in batch)
        for callback in self._callbacks:
            callback.on_step_end(self.step, result)

    def _evaluate_if_due(self) -> None:
        if _due(self.step, self._arguments.evaluate_every or self._total) and self.step < self._total:
            self._evaluate()

    def _evaluate(self) -> bool:
        """Measures the adapter as it is, unless that was done; a resumed run may find either.

        Returns:
            Whether it is done; not if the run was asked to stop before.
        """
        evaluations = self._history.evaluation_losses
        if self._held_out is None or (evaluations and evaluations[-1][0] == self.step):
            return True
        tensors = self._state().adapter
        prepared = self._model.engine.prepare(tensors)
        try:
            measured = self._model.evaluate_dataset(
                self._held_out, self._planning.plan.rows, prepared, self._before_batch
            )
        except _BrokenOffError:
            return False
        loss = measured[names.LOSS]
        evaluations.append((self.step, loss))
        if self._arguments.load_best_model_at_end and is_best(self._history.losses_held_out()):
            self._history = dataclasses.replace(self._history, best=tensors)
        for callback in self._callbacks:
            callback.on_evaluate(self.step, loss)
        return True

    def _before_batch(self) -> None:
        self._pause_if_unwell()
        if self._stopping():
            raise _BrokenOffError

    def _pause_if_unwell(self) -> None:
        self._pauses.wait(self.step, self._save_if_new)

    def _save_if_new(self) -> bool:
        """Whether there was anything to save, and a place for it."""
        if self._path is None or self.step <= self._tried:
            return False
        self._save()
        return True

    def _state(self) -> TrainState:
        """The state after the last update, if it is one that an adapter can have."""
        state = self._stepper.state()
        try:
            check_values(state.adapter)
        except AdapterError as error:
            raise TrainingError(
                f"step {self.step}: the run diverged: {error} Lower the learning rate."
            ) from error
        return state

    def _save(self) -> None:
        if self._path is None:
            return
        run = msgspec.structs.replace(self._run, step=self.step, seconds=self._seconds)
        self._tried = self.step
        checkpoint.save(self._path, run, self._history, self._state())

    def _result(self, reason: StopReason) -> TrainingResult:
        spent = max(self._seconds - self._run.seconds, 1e-9)
        best = self._history.best
        if reason == "stopped" and not any(step for step, _ in self._history.evaluation_losses):
            best = None  # only the untrained one was measured: what was learned is what is wanted
        known = self._rows.truncated_rows
        tensors = best if best is not None else self._state().adapter
        step = self.step
        if best is not None:
            step, _ = self._history.evaluation_losses[-1 - since_best(self._history.losses_held_out())]
        return TrainingResult(
            adapter=dataclasses.replace(self._adapter, tensors=tensors, base_id=self._run.base_id),
            losses=self._history.losses,
            evaluation_losses=self._history.evaluation_losses,
            steps=self.step,
            seconds=self._seconds,
            samples_per_second=self._samples / spent,
            tokens_per_second=self._tokens / spent if self._has_tokens else None,
            peak_memory_bytes=memory.peak_bytes(),
            stop_reason=reason,
            truncated_rows=self._truncated if known is None else known,
            paused_seconds=self._pauses.seconds,
            adapter_step=step,
            rows_at_once=self._planning.plan.rows,
        )


def _longest(max_length: int | None, *data: Dataset | None) -> int:
    """Length of the longest row, trained on or held out; of rows that stream, `max_length` or what came first."""
    return max(
        (max_length if one.streams and one.varies else None) or one.longest()
        for one in data
        if one is not None
    )


def since_best(losses: Sequence[float]) -> int:
    """How many of the losses came after the first lowest one; one that is not a number is higher than any."""
    ranked = [math.inf if math.isnan(loss) else loss for loss in losses]
    return len(ranked) - 1 - ranked.index(min(ranked)) if ranked else 0


def is_best(losses: Sequence[float]) -> bool:
    """Whether the last loss is the lowest so far, and is a loss at all."""
    return math.isfinite(losses[-1]) and since_best(losses) == 0


def _due(step: int, every: int | None) -> bool:
    """Whether something that is done every so many steps is due."""
    return every is not None and step % every == 0
