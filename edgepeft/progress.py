"""Progress of training: loss, rate and time left, as a bar on a terminal and as plain lines in a pipe."""

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from edgepeft.callbacks import Callback, TrainingResult
from edgepeft.engines.base import StepResult
from edgepeft.units import duration_text, size_text

#: Lines that a run prints into a pipe, about.
_LINES = 20

#: Columns of the bar: with the rest of the line it fits a terminal of 80.
_BAR_COLUMNS = 16

#: What the first Ctrl-C is answered with, while there are steps, which not every engine can break off, and afterwards.
_STOPPING = "stopping after this step; a second Ctrl-C ends at once"
_STOPPING_LATER = "stopping after this step; a second Ctrl-C ends after this batch"
_ENDING = "stopping; a second Ctrl-C ends at once"

Clock = Callable[[], float]


def pace(steps: int, seconds: float, left: int) -> str:
    """Rate and time left, as text.

    Args:
        steps: Steps made.
        seconds: What they took.
        left: Steps to make.
    """
    if not steps or seconds <= 0:
        return ""
    rate = steps / seconds
    told = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"
    return f"{told}, {timedelta(seconds=round(left / rate))} left"


class _Pace:
    """The pace of one run; evaluations and checkpoints between its steps are in it, an evaluation before them is not.

    Attributes:
        ended: Whether no step runs any more.
    """

    def __init__(self, clock: Clock, *, breaks_off: bool) -> None:
        self._clock = clock
        self._stopping = _STOPPING if breaks_off else _STOPPING_LATER
        self.begin(1, 1)

    def begin(self, total_steps: int, first_step: int) -> None:
        self.total = total_steps
        self._done = first_step - 1
        self.ended = first_step > total_steps
        self._started = self._clock()

    def leave_out(self, seconds: float) -> None:
        self._started += seconds

    def evaluated(self, step: int) -> None:
        if step == self._done:
            self._started = self._clock()

    def stepped(self, step: int) -> None:
        self.ended = step >= self.total

    def acknowledgement(self) -> str:
        return _ENDING if self.ended else self._stopping

    def text(self, step: int) -> str:
        return pace(step - self._done, self._clock() - self._started, self.total - step)


class TerminalProgress(Callback):
    """A bar on a terminal; for the arguments see `progress`."""

    def __init__(self, console: Console, clock: Clock = time.monotonic, *, breaks_off: bool = True) -> None:
        self._bar = Progress(
            BarColumn(bar_width=_BAR_COLUMNS),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[pace]}"),
            console=console,
        )
        self._task = self._bar.add_task("training", loss="", pace="", start=False)
        self._held_out = ""
        self._pace = _Pace(clock, breaks_off=breaks_off)

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Shows the bar."""
        self._pace.begin(total_steps, first_step)
        self._held_out = ""
        self._bar.update(self._task, total=total_steps, completed=first_step - 1)
        self._bar.start_task(self._task)
        self._bar.start()

    def on_shrink(self, rows: int, expected_bytes: int, limit_bytes: int) -> None:
        """Tells how many rows are run at once."""
        _tell(self._bar.console, shrunk(rows, expected_bytes, limit_bytes))

    def on_pause(self, step: int, reason: str) -> None:
        """Tells why the run waits; the bar stands still, for drawing it takes more than waiting does."""
        self._bar.stop()
        _tell(self._bar.console, f"paused after step {step}: {reason}")

    def on_resume(self, step: int, seconds: float) -> None:
        """Tells how long it waited."""
        self._pace.leave_out(seconds)
        self._bar.start()
        _tell(self._bar.console, f"on again after step {step}, {duration_text(seconds)} later")

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Moves the bar."""
        self._pace.stepped(step)
        loss = f"loss {result.loss:.3f}{self._held_out}"
        self._bar.update(self._task, completed=step, loss=loss, pace=self._pace.text(step))

    def on_evaluate(self, step: int, loss: float) -> None:
        """Shows the loss on held-out rows."""
        self._pace.evaluated(step)
        self._held_out = f" ({loss:.3f} held-out)"

    def on_signal(self) -> None:
        """Acknowledges it, above the bar."""
        self._bar.console.print(self._pace.acknowledgement(), highlight=False)

    def on_train_end(self, result: TrainingResult) -> None:
        """Tells of rows that were cut."""
        self._pace.ended = True
        _tell_truncated(self._bar.console, result)

    def close(self) -> None:
        """Leaves the bar standing, and gives the terminal its cursor back."""
        self._bar.stop()


class LineProgress(Callback):
    """About twenty lines in a pipe; for the arguments see `progress`."""

    def __init__(self, console: Console, clock: Clock = time.monotonic, *, breaks_off: bool = True) -> None:
        self._console = console
        self._pace = _Pace(clock, breaks_off=breaks_off)

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Remembers how long the run is."""
        self._pace.begin(total_steps, first_step)

    def on_shrink(self, rows: int, expected_bytes: int, limit_bytes: int) -> None:
        """Tells how many rows are run at once."""
        _tell(self._console, shrunk(rows, expected_bytes, limit_bytes))

    def on_pause(self, step: int, reason: str) -> None:
        """Tells why the run waits."""
        _tell(self._console, f"paused after step {step}: {reason}")

    def on_resume(self, step: int, seconds: float) -> None:
        """Tells how long it waited."""
        self._pace.leave_out(seconds)
        _tell(self._console, f"on again after step {step}, {duration_text(seconds)} later")

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Prints every so many steps."""
        self._pace.stepped(step)
        total = self._pace.total
        if step == total or step % max(1, total // _LINES) == 0:
            told = [f"step {step}/{total} loss {result.loss:.4f}", self._pace.text(step)]
            _tell(self._console, ", ".join(filter(None, told)))

    def on_evaluate(self, step: int, loss: float) -> None:
        """Prints the loss on held-out rows."""
        self._pace.evaluated(step)
        _tell(self._console, f"step {step}/{self._pace.total} held-out loss {loss:.4f}")

    def on_signal(self) -> None:
        """Acknowledges it."""
        _tell(self._console, self._pace.acknowledgement())

    def on_train_end(self, result: TrainingResult) -> None:
        """Tells of rows that were cut."""
        self._pace.ended = True
        _tell_truncated(self._console, result)


def shrunk(rows: int, expected_bytes: int, limit_bytes: int) -> str:
    """A batch that does not fit into memory, as text; see `Callback.on_shrink`."""
    parts = "row by row" if rows == 1 else f"{rows} rows at a time"
    return (
        f"the batch would take {size_text(expected_bytes)} of memory, the limit is {size_text(limit_bytes)}: it is run "
        f"{parts}, for the same update"
    )


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _tell_truncated(console: Console, result: TrainingResult) -> None:
    if result.truncated_rows:
        console.print(f"rows cut because they were too long: {result.truncated_rows}", highlight=False)


def progress(console: Console, *, breaks_off: bool = True) -> Callback:
    """The kind of progress that suits where it is shown.

    Args:
        console: Where.
        breaks_off: Whether a second signal ends a step that runs: the engine's `breaks_off_steps`.
    """
    kind = TerminalProgress if console.is_terminal else LineProgress
    return kind(console, breaks_off=breaks_off)
