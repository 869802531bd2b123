"""Checkpoints: one safetensors file that holds a whole training run, replaced at once."""

import os
from collections.abc import Mapping
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
#: Kind of slot, as it were, of the best adapter so far.
_BEST = "best"


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was, and how far it came.

    Attributes:
        base_id: The bundle's base.
        arguments: The training arguments; `optimizer` says which slots there are.
        data: Fingerprint of the training rows.
        step: Updates done.
        seconds: Time spent in updates.
    """

    base_id: str
    arguments: dict[str, int | float | str | bool | None]
    data: str
    step: int
    seconds: float


@dataclass(frozen=True)
class History:
    """What a run has measured.

    Attributes:
        losses: Loss of each update.
        evaluation_losses: Step and loss of each evaluation.
        best: The adapter with the lowest of these, if the run keeps it.
    """

    losses: list[float]
    evaluation_losses: list[tuple[int, float]]
    best: Mapping[str, Array] | None

    def losses_held_out(self) -> list[float]:
        """Loss of each evaluation."""
        return [loss for _, loss in self.evaluation_losses]


def save(path: Path, run: Run, history: History, state: TrainState) -> None:
    """Writes a checkpoint, durably and at once.

    Raises:
        StorageError: The disk refused; the checkpoint before is untouched.
    """
    arrays: dict[str, Array] = {
        _LOSSES: np.array(history.losses, dtype=np.float64),
        _EVALUATION: np.array(history.evaluation_losses, dtype=np.float64).reshape(-1, 2),
    }
    kept = dict(state.slots) | ({} if history.best is None else {_BEST: history.best})
    arrays |= state.adapter
    arrays |= {names.slot(kind, name): value for kind, slot in kept.items() for name, value in slot.items()}
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
        optimizer = str(run.arguments["optimizer"])
        kinds = names.OPTIMIZERS[optimizer].slots
    except (msgspec.DecodeError, KeyError) as error:
        raise CheckpointError(f"{where}: is no checkpoint of edgepeft: {error}.") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    kept = (*kinds, _BEST) if any(name.startswith(f"{_BEST}.") for name in arrays) else kinds
    expected = {name: shapes.get(name) for name in adapter_names}
    expected |= {names.slot(kind, name): shapes.get(name) for kind in kept for name in adapter_names}
    expected |= {_LOSSES: (run.step,), _EVALUATION: (*shapes.get(_EVALUATION, ())[:1], 2)}
    if shapes != expected:
        raise CheckpointError(
            f"{where}: its tensors are not the bundle's. Resume with the bundle it was made on."
        )
    slots = {kind: {name: arrays[names.slot(kind, name)] for name in adapter_names} for kind in kept}
    evaluations = [(int(step), float(loss)) for step, loss in arrays[_EVALUATION]]
    history = History(arrays[_LOSSES].tolist(), evaluations, slots.pop(_BEST, None))
    adapter = {name: arrays[name] for name in adapter_names}
    return run, history, TrainState(optimizer, adapter, slots, run.step)
