"""Checkpoints: one safetensors file that holds a whole training run, replaced at once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgepeft import limits, names, store, tensors
from edgepeft.engines.base import TrainState
from edgepeft.errors import CheckpointError
from edgepeft.tensors import Array

_KEY = "edgepeft.run"
_LOSSES = "history.losses"
_EVALUATION = "history.evaluation_losses"

#: Names of an adapter tensor and of its two moments in the file, in the order of `TrainState`.
_RENAMES: tuple[Callable[[str], str], ...] = (str, names.first_moment, names.second_moment)


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was, and how far it came.

    Attributes:
        base_id: The bundle's base.
        arguments: The training arguments.
        data: Fingerprint of the training rows.
        step: Updates done.
        seconds: Time spent in updates.
    """

    base_id: str
    arguments: dict[str, int | float | None]
    data: str
    step: int
    seconds: float


@dataclass(frozen=True)
class History:
    """What a run has measured.

    Attributes:
        losses: Loss of each update.
        evaluation_losses: Step and loss of each evaluation.
    """

    losses: list[float]
    evaluation_losses: list[tuple[int, float]]


def save(path: Path, run: Run, history: History, state: TrainState) -> None:
    """Writes a checkpoint, durably and at once.

    Raises:
        StorageError: The disk refused; the checkpoint before is untouched.
    """
    arrays: dict[str, Array] = {
        _LOSSES: np.array(history.losses, dtype=np.float64),
        _EVALUATION: np.array(history.evaluation_losses, dtype=np.float64).reshape(-1, 2),
    }
    for rename, group in zip(_RENAMES, (state.adapter, state.exp_avg, state.exp_avg_sq), strict=True):
        arrays |= {rename(name): value for name, value in group.items()}
    store.write_file(path, tensors.serialize(arrays, {_KEY: msgspec.json.encode(run).decode()}))


def load(path: str | os.PathLike[str], adapter_names: tuple[str, ...]) -> tuple[Run, History, TrainState]:
    """Reads a checkpoint.

    Raises:
        CheckpointError: The file is malformed, or its tensors are not the bundle's, each with its two moments.
    """
    where = str(path)
    content = store.read_once(Path(path), limits.MAX_CHECKPOINT_BYTES, CheckpointError)
    arrays, metadata = tensors.parse_checked(content, where, CheckpointError)
    try:
        run = msgspec.json.decode(metadata.get(_KEY, ""), type=Run)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{where}: is no checkpoint of edgepeft: {error}.") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    expected = {rename(name): shapes.get(name) for rename in _RENAMES for name in adapter_names}
    expected |= {_LOSSES: (run.step,), _EVALUATION: (*shapes.get(_EVALUATION, ())[:1], 2)}
    if shapes != expected:
        raise CheckpointError(
            f"{where}: its tensors are not the bundle's. Resume with the bundle it was made on."
        )
    groups = [{name: arrays[rename(name)] for name in adapter_names} for rename in _RENAMES]
    evaluations = [(int(step), float(loss)) for step, loss in arrays[_EVALUATION]]
    history = History(arrays[_LOSSES].tolist(), evaluations)
    return run, history, TrainState(groups[0], groups[1], groups[2], run.step)
