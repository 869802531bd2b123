"""Checkpoint files: what is written is what is read, and what was tampered with is refused."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgepeft import checkpoint, tensors
from edgepeft.checkpoint import History, Run
from edgepeft.engines.base import TrainState
from edgepeft.errors import CheckpointError

NAMES = ("a.weight", "b.weight")
SHAPES = dict.fromkeys(NAMES, (2, 3))
RUN = Run(
    "0" * 64, {"optimizer": "adamw", "learning_rate": 0.1, "epochs": None, "seed": 3}, "data", None, 2, 1.5
)
HISTORY = History([0.25, 1 / 3], [(0, 1.0), (2, 0.1)], None)


def state(tensors: Sequence[str] = NAMES) -> TrainState:
    generator = np.random.default_rng(0)
    groups = [
        {name: generator.standard_normal((2, 3)).astype(np.float32) for name in tensors} for _ in range(3)
    ]
    return TrainState("adamw", groups[0], {"exp_avg": groups[1], "exp_avg_sq": groups[2]}, 2)


def contents(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return tensors.parse_checked(memoryview(path.read_bytes()), "file", CheckpointError)


@pytest.mark.parametrize("history", [HISTORY, History([0.5, 0.25], [], None)])
def test_what_is_written_is_read(tmp_path: Path, history: History) -> None:
    """Every bit of the state and of the losses, with and without evaluations; the file is the same each time."""
    path = tmp_path / "run" / "checkpoint.safetensors"
    written = state()
    checkpoint.save(path, RUN, history, written)
    first = path.read_bytes()
    run, read, got = checkpoint.load(path, SHAPES)
    assert (run, read, got.step) == (RUN, history, 2)
    for name in NAMES:
        assert np.array_equal(got.adapter[name], written.adapter[name])
        assert all(np.array_equal(got.slots[kind][name], slot[name]) for kind, slot in written.slots.items())
    checkpoint.save(path, run, read, got)
    assert path.read_bytes() == first


@pytest.mark.parametrize("best", [False, True])
def test_no_name_of_a_tensor_is_taken_for_another_kind(tmp_path: Path, *, best: bool) -> None:
    """A module may be called `best`, `history` or like a moment."""
    tensors = ("best.weight", "history.losses", "exp_avg.weight", "adapter.weight", "weight")
    path = tmp_path / "checkpoint.safetensors"
    written = state(tensors)
    kept = {name: value + 1 for name, value in written.adapter.items()} if best else None
    checkpoint.save(path, RUN, dataclasses.replace(HISTORY, best=kept), written)
    run, history, got = checkpoint.load(path, dict.fromkeys(tensors, (2, 3)))
    assert run == RUN
    assert (history.losses, history.evaluation_losses) == (HISTORY.losses, HISTORY.evaluation_losses)
    assert {name: value.tobytes() for name, value in (history.best or {}).items()} == {
        name: value.tobytes() for name, value in (kept or {}).items()
    }
    for name in tensors:
        assert np.array_equal(got.adapter[name], written.adapter[name])
        assert all(np.array_equal(got.slots[kind][name], slot[name]) for kind, slot in written.slots.items())


@pytest.mark.parametrize(
    "change",
    [
        {"adapter.a.weight": None},
        {"exp_avg.b.weight": None},
        {"adapter.c.weight": np.zeros(1, np.float32)},
        {"best.a.weight": np.zeros((2, 3), np.float32)},
        {"exp_avg.a.weight": np.zeros((3, 2), np.float32)},
        {"history.losses": np.zeros(3)},
        {"history.evaluation_losses": np.zeros((1, 3))},
        {"history.evaluation_losses": np.array(1.0)},
        {"history.evaluation_losses": None},
    ],
)
def test_tensors_that_do_not_belong_together(tmp_path: Path, change: dict[str, np.ndarray | None]) -> None:
    """Missing, extra, of another shape than its partner, or a history of another length than the run."""
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, RUN, HISTORY, state())
    arrays, metadata = contents(path)
    changed = {name: value for name, value in (arrays | change).items() if value is not None}
    path.write_bytes(tensors.serialize(changed, metadata))
    with pytest.raises(CheckpointError, match="tensors are not the bundle's"):
        checkpoint.load(path, SHAPES)


def test_the_bundle_says_the_shapes(tmp_path: Path) -> None:
    """A file whose tensors fit each other, but not the bundle: an adapter of another rank."""
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, RUN, HISTORY, state())
    with pytest.raises(CheckpointError, match="tensors are not the bundle's"):
        checkpoint.load(path, SHAPES | {"a.weight": (4, 3)})


@pytest.mark.parametrize("told", ["", "{}", '{"step": "two"}', "[1]"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, told: str) -> None:
    """An adapter's file, say, or a record of another version."""
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, RUN, HISTORY, state())
    arrays, _ = contents(path)
    path.write_bytes(tensors.serialize(arrays, {"edgepeft.run": told}))
    with pytest.raises(CheckpointError, match="no checkpoint of edgepeft"):
        checkpoint.load(path, SHAPES)
