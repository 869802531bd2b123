"""Progress of training: loss, rate and time left, as a bar on a terminal and as plain lines in a pipe."""

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from edgepeft.engines.base import StepResult
from edgepeft.training import Callback, TrainingResult

#: Lines that a run prints into a pipe, about.
_LINES = 20

#: Columns of the bar: with the rest of the line it fits a terminal of 80.
_BAR_COLUMNS = 16

#: What the first Ctrl-C is answered with.
_STOPPING = "stopping after this step; a second Ctrl-C ends at once"

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
    """The pace of one run; evaluations and checkpoints between its steps are in it, an evaluation before them is not."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begin(1, 1)

    def begin(self, total_steps: int, first_step: int) -> None:
        self.total = total_steps
        self._done = first_step - 1
        self._started = self._clock()

    def evaluated(self, step: int) -> None:
        if step == self._done:
            self._started = self._clock()

    def text(self, step: int) -> str:
        return pace(step - self._done, self._clock() - self._started, self.total - step)


class TerminalProgress(Callback):
    """A bar on a terminal."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._bar = Progress(
            BarColumn(bar_width=_BAR_COLUMNS),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[pace]}"),
            console=console,
        )
        self._task = self._bar.add_task("training", loss="", pace="", start=False)
        self._held_out = ""
        self._pace = _Pace(clock)

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Shows the bar."""
        self._pace.begin(total_steps, first_step)
        self._held_out = ""
        self._bar.update(self._task, total=total_steps, completed=first_step - 1)
        self._bar.start_task(self._task)
        self._bar.start()

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Moves the bar."""
        loss = f"loss {result.loss:.3f}{self._held_out}"
        self._bar.update(self._task, completed=step, loss=loss, pace=self._pace.text(step))

    def on_evaluate(self, step: int, loss: float) -> None:
        """Shows the loss on held-out rows."""
        self._pace.evaluated(step)
        self._held_out = f" ({loss:.3f} held-out)"

    def on_signal(self) -> None:
        """Acknowledges it, above the bar."""
        self._bar.console.print(_STOPPING, highlight=False)

    def on_train_end(self, result: TrainingResult) -> None:
        """Tells of rows that were cut."""
        _tell_truncated(self._bar.console, result)

    def close(self) -> None:
        """Leaves the bar standing, and gives the terminal its cursor back."""
        self._bar.stop()


class LineProgress(Callback):
    """About twenty lines in a pipe."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._pace = _Pace(clock)

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Remembers how long the run is."""
        self._pace.begin(total_steps, first_step)

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Prints every so many steps."""
        total = self._pace.total
        if step == total or step % max(1, total // _LINES) == 0:
            told = [f"step {step}/{total} loss {result.loss:.4f}", self._pace.text(step)]
            self._print(", ".join(filter(None, told)))

    def on_evaluate(self, step: int, loss: float) -> None:
        """Prints the loss on held-out rows."""
        self._pace.evaluated(step)
        self._print(f"step {step}/{self._pace.total} held-out loss {loss:.4f}")

    def on_signal(self) -> None:
        """Acknowledges it."""
        self._print(_STOPPING)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, result: TrainingResult) -> None:
        """Tells of rows that were cut."""
        _tell_truncated(self._console, result)


def _tell_truncated(console: Console, result: TrainingResult) -> None:
    if result.truncated_rows:
        console.print(f"rows cut to max_length: {result.truncated_rows}", highlight=False)


def progress(console: Console) -> Callback:
    """The kind of progress that suits where it is shown."""
    return TerminalProgress(console) if console.is_terminal else LineProgress(console)
