"""Where a training run's adapter goes."""

from pathlib import Path

from edgepeft.training import Callback, TrainingResult


class AdapterOutput(Callback):
    """Writes the adapter as the run ends, before anything that is told later can fail.

    A run that a signal stopped is not what was asked for: its adapter is written, but replaces none; where there is
    one, it goes beside it, under a name that says how far it came.

    Args:
        folder: The folder that was asked for.

    Attributes:
        folder: The folder that was asked for.
        written: The one that was written, if any.
        total_steps: How many steps the run has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: Path | None = None
        self.total_steps = 0

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Remembers how long the run is."""
        del first_step
        self.total_steps = total_steps

    def on_train_end(self, result: TrainingResult) -> None:
        """Writes the adapter, unless a signal came before anything was learned."""
        if result.stop_reason != "stopped":
            self.written = self.folder
        elif result.steps:
            taken = self.folder.exists() and any(self.folder.iterdir())
            aside = f"{self.folder.absolute().name}.stopped-at-{result.steps}"
            self.written = self.folder.parent / aside if taken else self.folder
        if self.written is not None:
            result.adapter.save(self.written)
