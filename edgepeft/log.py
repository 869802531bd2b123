"""A log of training as JSON Lines: one object an event, written as it happens."""

import errno
import json
import math
import os
import re
import time
from io import FileIO
from pathlib import Path
from typing import Any

from edgepeft import store
from edgepeft.engines.base import StepResult
from edgepeft.errors import StorageError
from edgepeft.training import Callback, TrainingResult

#: How a line of ours starts, and bytes that are enough to see it.
_EVENT = re.compile(rb'\{"event": "(begin|step|evaluate|end)", "time": ')
_START_BYTES = 64

#: Bytes that are looked through at once for the last end of a line.
_CHUNK_BYTES = 1 << 16


class JsonLinesLog(Callback):
    """Appends every event of a run to a file; a resumed run goes on in it, and so does the next run.

    Each line has `event` ("begin", "step", "evaluate" or "end"), `time` in seconds since 1970, and the event's own
    values; a loss that is no number is null.

    Args:
        path: The file; made when a run begins. One that has something else in it is not appended to. A last line
            that a power cut left half is taken away.

    Raises:
        StorageError: The file cannot be written, or is no log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: FileIO | None = None
        try:
            _check_writable(self._path)
            _check_is_log(self._path)
        except OSError as error:
            raise self._refused(error) from error

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        """Writes how long the run is, and where it begins."""
        self._write("begin", total_steps=total_steps, first_step=first_step)

    def on_step_end(self, step: int, result: StepResult) -> None:
        """Writes what the update reports."""
        self._write(
            "step",
            step=step,
            loss=result.loss,
            learning_rate=result.learning_rate,
            gradient_norm=result.gradient_norm,
            weight=result.weight,
        )

    def on_evaluate(self, step: int, loss: float) -> None:
        """Writes the loss on held-out rows."""
        self._write("evaluate", step=step, loss=loss)

    def on_train_end(self, result: TrainingResult) -> None:
        """Writes why the run ended, and how many rows were cut."""
        self._write(
            "end",
            step=result.steps,
            seconds=result.seconds,
            stop_reason=result.stop_reason,
            truncated_rows=result.truncated_rows,
        )

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: str, **values: Any) -> None:
        told = {name: _json_number(value) for name, value in values.items()}
        line = json.dumps({"event": event, "time": time.time()} | told, allow_nan=False).encode() + b"\n"
        try:
            if self._file is None:
                self._file = _opened(self._path)
            written = self._file.write(line)
        except OSError as error:
            raise self._refused(error) from error
        if written < len(line):
            raise self._refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: cannot be written: {error.strerror}. Choose another file.")


def _check_is_log(path: Path) -> None:
    """A file that was named by mistake, such as the data, gets no events."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if start and not _EVENT.match(start):
        raise StorageError(f"{path}: exists and is no log of training. Choose another file.")


def _check_writable(path: Path) -> None:
    """A place that cannot be written is told before work is done for it; nothing is made there yet."""
    if not path.parent.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not path.exists():
        store.check_writable(path)
    elif path.is_file() or path.is_dir():  # a pipe would be at its end when it is closed again
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def _opened(path: Path) -> FileIO:
    """The file, to be appended to after its last whole line."""
    if path.is_file():
        _check_is_log(path)
        _drop_half_line(path)
    return FileIO(path, "a")  # no buffer, which closing would try to write again


def _drop_half_line(path: Path) -> None:
    """Cuts off what follows the last end of a line: with the next event behind it, it would be no JSON."""
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1
            if newline >= 0:
                break
        if end < size:
            file.truncate(end)


def _json_number(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
