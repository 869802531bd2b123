"""Progress of training: a bar with loss, rate and time left on a terminal, plain lines in a pipe."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgepeft.engines.base import StepResult
from edgepeft.training import Callback, TrainingResult

#: Lines that a run prints into a pipe, about.
_LINES = 20


class TerminalProgress(Callback):
    """A bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("training", loss="", start=False)
        self._held_out = ""

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Shows the bar."""
        self._bar.update(self._task, total=total_steps, completed=first_step - 1)
        self._bar.start_task(self._task)
        self._bar.start()

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=step, loss=f"loss {result.loss:.4f}{self._held_out}")

    def on_evaluate(self, step: int, loss: float) -> None:
        """Shows the loss on held-out rows."""
        del step
        self._held_out = f", held-out {loss:.4f}"

    def on_train_end(self, result: TrainingResult) -> None:
        """Tells of rows that were cut."""
        _tell_truncated(self._bar.console, result)

    def close(self) -> None:
        """Leaves the bar standing, and gives the terminal its cursor back."""
        self._bar.stop()


class LineProgress(Callback):
    """About twenty lines in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 1

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Remembers how long the run is."""
        del first_step
        self._total = total_steps

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Prints every so many steps."""
        if step == self._total or step % max(1, self._total // _LINES) == 0:
            self._console.print(f"step {step}/{self._total} loss {result.loss:.4f}", highlight=False)

    def on_evaluate(self, step: int, loss: float) -> None:
        """Prints the loss on held-out rows."""
        self._console.print(f"step {step}/{self._total} held-out loss {loss:.4f}", highlight=False)

    def on_train_end(self, result: TrainingResult) -> None:
        """Tells of rows that were cut."""
        _tell_truncated(self._console, result)


def _tell_truncated(console: Console, result: TrainingResult) -> None:
    if result.truncated_rows:
        console.print(f"rows cut to max_length: {result.truncated_rows}", highlight=False)


def progress(console: Console) -> Callback:
    """The kind of progress that suits where it is shown."""
    return TerminalProgress(console) if console.is_terminal else LineProgress(console)
