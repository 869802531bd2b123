"""Where a training run's adapter goes."""

import itertools
from pathlib import Path

from edgepeft import store
from edgepeft.callbacks import Callback, TrainingResult
from edgepeft.cli.shared import is_taken


class AdapterOutput(Callback):
    """Writes the adapter as the run ends, before anything that is told later can fail.

    A run that a signal stopped is not what was asked for: its adapter is written, but replaces none; where there is
    one, it goes beside it, under a name that says how far it came and that nothing has yet.

    Args:
        folder: The folder that was asked for.

    Attributes:
        folder: The folder that was asked for.
        written: The one that was written, if any.
        replaced: Whether there was an adapter in its place.
        total_steps: How many steps the run has.
        first_step: The one that it began with; larger than 1 in a resumed run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: Path | None = None
        self.replaced = False
        self.total_steps = 0
        self.first_step = 1

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Remembers how long the run is, and where it begins."""
        self.total_steps, self.first_step = total_steps, first_step

    def on_train_end(self, result: TrainingResult) -> None:
        """Writes the adapter, unless a signal came before anything was learned."""
        if result.stop_reason != "stopped":
            self.written = self.folder
        elif result.steps:
            with store.refusals(self.folder):
                self.written = self._aside(result.steps) if is_taken(self.folder) else self.folder
        if self.written is not None:
            self.replaced = is_taken(self.written)
            result.adapter.save(self.written)

    def _aside(self, steps: int) -> Path:
        """A folder beside the one that was asked for, which is not there yet."""
        first = self.folder.parent / f"{self.folder.absolute().name}.stopped-at-{steps}"
        others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        return next(path for path in itertools.chain([first], others) if not path.exists())
