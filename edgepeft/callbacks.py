"""What a run tells: to its callbacks as it happens, and as a result in the end."""

from dataclasses import dataclass
from typing import Literal

from edgepeft.adapter import Adapter
from edgepeft.data import Dataset
from edgepeft.engines.base import StepResult

#: Why a run ended: all its steps are done, its time is up, the held-out loss no longer falls, or it was asked to.
StopReason = Literal["finished", "max_seconds", "early_stopping", "stopped"]


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave.

    Attributes:
        adapter: The trained adapter: the last, or the best with `load_best_model_at_end`; of a stopped run that measured
            only what it began with, the last.
        losses: Loss of each step, before its update.
        evaluation_losses: Step and loss of each evaluation; step 0 is before training.
        steps: Updates made, resumed ones included.
        seconds: Time spent in updates.
        samples_per_second: Rows trained on, a second.
        tokens_per_second: Places of the padded batches that were computed, a second; `None` where rows have
            no tokens.
        peak_memory_bytes: Largest resident size of the process so far.
        stop_reason: Why the run ended.
        truncated_rows: Rows of the training data that were cut to `max_length`; of data that streams, those that
            came up in the first pass of this call.
        adapter_step: The step after which `adapter` was as it is: the last, or the best one's.
        rows_at_once: Rows that were run at once: `batch_size`, or less where memory was too little for it.
        paused_seconds: Time that this call waited as a guest.
        seconds_per_step: Mean time of an update.
        held_out_loss: Loss of `adapter` on the held-out rows; `None` where it was not measured.
    """

    adapter: Adapter
    losses: list[float]
    evaluation_losses: list[tuple[int, float]]
    steps: int
    seconds: float
    samples_per_second: float
    tokens_per_second: float | None
    peak_memory_bytes: int
    stop_reason: StopReason
    truncated_rows: int
    adapter_step: int
    rows_at_once: int
    paused_seconds: float = 0.0

    def __repr__(self) -> str:
        """The outcome: the losses of all steps and evaluations are too long to read."""
        held_out = [loss for _, loss in self.evaluation_losses]
        told = {"loss": self.losses, "held-out loss": held_out}
        losses = "".join(f", {name} {kept[0]:.4g} to {kept[-1]:.4g}" for name, kept in told.items() if kept)
        return f"<TrainingResult {self.stop_reason} after {self.steps} steps{losses}, {self.adapter!r}>"

    @property
    def seconds_per_step(self) -> float:  # noqa: D102 - among the attributes above
        return self.seconds / max(1, self.steps)

    @property
    def held_out_loss(self) -> float | None:  # noqa: D102 - among the attributes above
        return dict(self.evaluation_losses).get(self.adapter_step)


def held_out_text(result: TrainingResult, digits: str, arrow: str) -> str | None:
    """The held-out loss before, and the adapter's; or the last one that was measured, if that was not.

    Args:
        result: What a run gave.
        digits: How a loss is written, as `format` takes it.
        arrow: What is between the two.

    Returns:
        `None` if none was measured.
    """
    measured = result.evaluation_losses
    if not measured:
        return None
    first_step, first = measured[0]
    loss, step = result.held_out_loss, result.adapter_step
    if loss is None:
        step, loss = measured[-1]
    before = f"{first:{digits}} {arrow} " if step != first_step else ""
    at = f" at step {step:,}" if step != result.steps else ""
    return f"{before}{loss:{digits}}{at}"


class Callback:
    """Told what happens during training; override what you need.

    An error that one raises ends the run: a checkpoint of what was done is written first, if there is a folder for it.
    """

    def on_data(self, train_data: Dataset, eval_data: Dataset | None) -> None:
        """When the data is open, before all else."""

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Before the first step; `first_step` is larger than 1 in a resumed run."""

    def on_shrink(self, rows: int, expected_bytes: int, limit_bytes: int) -> None:
        """After `on_train_begin`, where memory is too little for `batch_size` rows at once: so many are, the update is the same.

        Of data that streams, a row can come that is longer than those that were looked at: then again, with fewer rows.

        Args:
            rows: Rows that are run at once.
            expected_bytes: What the process would take with `batch_size` rows, at most.
            limit_bytes: What it may take.
        """

    def on_pause(self, step: int, reason: str) -> None:
        """When a guest begins to wait, after so many updates, and when it has more to wait for.

        As it begins, a checkpoint is written, if there is a folder for it, and none was written in a minute for a pause.
        """

    def on_resume(self, step: int, seconds: float) -> None:
        """When it goes on, or was asked to stop; `seconds` is how long it waited."""

    def on_step_end(self, step: int, result: StepResult) -> None:
        """After an update; steps count from 1."""

    def on_evaluate(self, step: int, loss: float) -> None:
        """After an evaluation."""

    def on_signal(self) -> None:
        """When a signal asked the run to stop: at once, in another thread, while the running step goes on.

        What it raises ends nothing, and is lost. The run does not wait for one that takes long.
        """

    def on_train_end(self, result: TrainingResult) -> None:
        """After the last step; the model uses the trained adapter already, and the checkpoint is written."""

    def close(self) -> None:
        """After all else, also when training failed or never began: give back a file, say, or the terminal."""
