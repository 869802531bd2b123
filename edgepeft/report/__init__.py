"""The report of a training run: one HTML file that needs nothing from elsewhere."""

import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path

from edgepeft import store
from edgepeft.callbacks import Callback, TrainingResult
from edgepeft.data import Dataset
from edgepeft.errors import StorageError
from edgepeft.report import page, samples
from edgepeft.report.machine import machine, versions
from edgepeft.report.page import MARK, Facts, Pause
from edgepeft.report.samples import Samples
from edgepeft.report.summary import summarize
from edgepeft.training import Trainer


class HtmlReport(Callback):
    """Writes a report when a run ends, also one that a signal stopped; docs/report.md says what is in it.

    A few held-out rows, or else training rows, are asked under the adapter that the run began with and under the one
    that it made; their text is in the report. That is left out if the run was asked to stop, before or meanwhile.

    Args:
        path: The file; a report that is there is replaced, anything else is not.
        trainer: The trainer whose run is reported.
        tell: Told lines of progress while the model is asked, which can take as long as many steps.

    Raises:
        StorageError: The file cannot be written, or is something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        trainer: Trainer,
        *,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._path = Path(path)
        self._tell = tell
        self._trainer = trainer
        self._model = trainer.model
        _check_replaceable(self._path)
        store.check_writable(self._path)

    def on_data(self, train_data: Dataset, eval_data: Dataset | None) -> None:
        """Looks at the data."""
        self._pauses: list[Pause] = []
        self._reasons: list[str] = []
        self._started = time.monotonic()
        has_classes = self._model.bundle.manifest.classes is not None
        self._train = summarize(train_data, has_classes=has_classes)
        self._held_out = None if eval_data is None else summarize(eval_data, has_classes=has_classes)
        self._asked = train_data if eval_data is None else eval_data
        self._questions = samples.questions(self._model, self._asked)

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Remembers how long the run is."""
        self._total_steps, self._first_step = total_steps, first_step

    def on_pause(self, step: int, reason: str) -> None:
        """Remembers why the run waits."""
        del step
        self._reasons.append(reason)

    def on_resume(self, step: int, seconds: float) -> None:
        """Remembers how long it waited."""
        self._pauses.append(Pause(step, "; then ".join(self._reasons), seconds))
        self._reasons = []

    def on_train_end(self, result: TrainingResult) -> None:
        """Writes the report."""
        seconds = time.monotonic() - self._started
        found = self._samples(result)
        facts = Facts(
            manifest=self._model.bundle.manifest,
            arguments=self._trainer.arguments,
            result=result,
            total_steps=self._total_steps,
            first_step=self._first_step,
            seconds=seconds,
            train=self._train,
            held_out=self._held_out,
            pauses=self._pauses,
            samples=found,
            machine=machine(),
            versions=versions(),
            finished=dt.datetime.now().astimezone(),
        )
        store.write_file(self._path, page.render(facts))

    def _samples(self, result: TrainingResult) -> Samples | None:
        pair = self._trainer.began_with, result.adapter
        try:
            self._check()
            if self._questions:
                self._tell(
                    f"asking {len(self._questions)} prompts under both adapters, for the report; Ctrl-C leaves them out"
                )
            answers = samples.ask(self._model, self._questions, *pair, self._before_question)
            classes, changes = samples.classify(
                self._model, self._asked, result.rows_at_once, *pair, self._check
            )
        except _LeftOutError:
            return None
        return Samples(answers, classes, changes)

    def _before_question(self, number: int) -> None:
        self._check()
        if number:
            self._tell(f"asked {number} of {len(self._questions)} prompts")

    def _check(self) -> None:
        self._trainer.wait_until_well()
        if self._trainer.stopping:
            raise _LeftOutError


class _LeftOutError(Exception):
    """Somebody wants the end, and not the samples."""


def _check_replaceable(path: Path) -> None:
    """A file that was named by mistake, such as the data, is not overwritten."""
    with store.refusals(path):
        if not path.exists():
            return
        start = None
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(MARK))
    if start not in (MARK, b""):
        raise StorageError(f"{path}: exists and is no training report. Choose another file.")
