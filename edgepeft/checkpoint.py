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
#: Every tensor's name begins with its kind: these two or one of the optimizer's slots, so that none is two things.
_ADAPTER = "adapter"
_BEST = "best"


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was, and how far it came.

    Attributes:
        base_id: The bundle's base.
        arguments: The training arguments; `optimizer` says which slots there are.
        data: Fingerprint of the training rows.
        held_out: Fingerprint of the held-out rows, if there were any so far.
        step: Updates done.
        seconds: Time spent in updates.
    """

    base_id: str
    arguments: dict[str, int | float | str | bool | None]
    data: str
    held_out: str | None
    step: int
    seconds: float


class _Record(Run, frozen=True, forbid_unknown_fields=True):
    """What the file says about itself: the run, and whether the best adapter so far is in it."""

    best: bool


@dataclass(frozen=True)
class History:
    """What a run has measured.

    Attributes:
        losses: Loss of each update.
        evaluation_losses: Step and loss of each evaluation.
        best: The adapter with the lowest of these, if the run keeps it and one was a number.
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
    kinds = {_ADAPTER: state.adapter, **state.slots} | ({} if history.best is None else {_BEST: history.best})
    arrays |= {names.slot(kind, name): value for kind, kept in kinds.items() for name, value in kept.items()}
    record = _Record(**msgspec.structs.asdict(run), best=history.best is not None)
    store.write_file(path, tensors.pieces(arrays, {_KEY: msgspec.json.encode(record).decode()}))


def load(
    path: str | os.PathLike[str], adapter: Mapping[str, tuple[int, ...]]
) -> tuple[Run, History, TrainState]:
    """Reads a checkpoint.

    Args:
        path: The file.
        adapter: Shapes of the bundle's adapter tensors by name.

    Raises:
        CheckpointError: The file is malformed, or its tensors are not the bundle's with what the optimizer keeps
            for each.
    """
    where = str(path)
    content = store.read_once(Path(path), limits.MAX_CHECKPOINT_BYTES, CheckpointError)
    arrays, metadata = tensors.parse_checked(content, where, CheckpointError)
    try:
        record = msgspec.json.decode(metadata.get(_KEY, ""), type=_Record)
        optimizer = str(record.arguments["optimizer"])
        slots = names.OPTIMIZERS[optimizer].slots
    except (msgspec.DecodeError, KeyError) as error:
        raise CheckpointError(f"{where}: is no checkpoint of edgepeft: {error}.") from error
    kinds = (_ADAPTER, *slots, *([_BEST] if record.best else []))
    shapes = {name: array.shape for name, array in arrays.items()}
    expected = {names.slot(kind, name): shape for kind in kinds for name, shape in adapter.items()}
    expected |= {_LOSSES: (record.step,), _EVALUATION: (*shapes.get(_EVALUATION, ())[:1], 2)}
    if shapes != expected:
        raise CheckpointError(
            f"{where}: its tensors are not the bundle's. Resume with the bundle it was made on."
        )
    kept = {kind: {name: arrays[names.slot(kind, name)] for name in adapter} for kind in kinds}
    evaluations = [(int(step), float(loss)) for step, loss in arrays[_EVALUATION]]
    history = History(arrays[_LOSSES].tolist(), evaluations, kept.pop(_BEST, None))
    run = Run(**{field: getattr(record, field) for field in Run.__struct_fields__})
    return run, history, TrainState(optimizer, kept.pop(_ADAPTER), kept, record.step)
