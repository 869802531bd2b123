"""Memory of a training as a guest: a batch that does not fit is run in parts, a row that does not fit is refused."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_machine import write
from training_runs import Rows, arguments, make_rows

import edgepeft
from edgepeft import estimate, guest
from edgepeft.engines.base import StepResult
from edgepeft.engines.choice import STOCK, choose
from edgepeft.errors import MemoryLimitError
from edgepeft.limits import KiB
from edgepeft.manifest import Manifest
from edgepeft.memory import Resident


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process held nothing: it has run other tests."""
    monkeypatch.setattr("edgepeft.memory.resident", lambda: Resident(0, 0))


@pytest.fixture(scope="module")
def rows() -> Rows:
    return make_rows()


def total(bundle: Path, rows: Rows, batch_size: int) -> int:
    """What a training is expected to take on the engine that runs here."""
    longest = max(len(row["labels"]) for row in rows)
    manifest = edgepeft.Bundle.open(bundle).manifest
    found = estimate.training_memory(manifest, batch_size, longest, engine=choose(manifest).engine)
    assert found is not None
    return int(found.total)


class Shrunk(edgepeft.Callback):
    """What is told of memory."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, int]] = []

    def on_shrink(self, rows: int, expected_bytes: int, limit_bytes: int) -> None:
        self.told.append((rows, expected_bytes, limit_bytes))


class Steps(edgepeft.Callback):
    """Counts the steps."""

    def __init__(self) -> None:
        self.made = 0

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        self.made = step


class Stop(Steps):
    """Stops a run after its third step."""

    def __init__(self, trainer: edgepeft.Trainer) -> None:
        super().__init__()
        self._trainer = trainer

    def on_step_end(self, step: int, result: StepResult) -> None:
        super().on_step_end(step, result)
        if step == 3:
            self._trainer.stop()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each batch that is run."""
    seen: list[int] = []
    collate = edgepeft.Model.collate

    def watched(self: edgepeft.Model, rows: Any, *rest: Any) -> Any:
        seen.append(len(rows))
        return collate(self, rows, *rest)

    monkeypatch.setattr(edgepeft.Model, "collate", watched)
    return seen


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (4, 2), (7, 1)])
def test_a_batch_that_does_not_fit_is_run_in_parts(
    bundles: Path, rows: Rows, sizes: list[int], batch_size: int, accumulation: int
) -> None:
    """Half of it, and half of that, for the same update; told once, with the numbers."""
    bundle = bundles / "tiny-llama"
    settings = arguments(batch_size=batch_size, gradient_accumulation=accumulation, group_by_length=True)
    plain = edgepeft.Trainer(edgepeft.load(bundle), settings).fit(rows)
    sizes.clear()
    limit = total(bundle, rows, 2) + 1
    watch = Shrunk()
    little = edgepeft.Guest(max_memory=limit)
    result = edgepeft.Trainer(edgepeft.load(bundle), settings).fit(
        rows, rows, callbacks=[watch], guest=little
    )
    most = 1 if batch_size == 7 else 2  # 7, 3, 1
    assert watch.told == [(most, total(bundle, rows, batch_size), limit)]
    assert max(sizes) == most
    assert result.losses == pytest.approx(plain.losses, rel=1e-5)
    for name, value in plain.adapter.tensors.items():
        assert np.allclose(result.adapter.tensors[name], value, atol=1e-5)


def test_longer_rows_that_are_held_out(bundles: Path, rows: Rows) -> None:
    """Are counted: an evaluation runs as many rows at once as a step."""
    bundle = bundles / "tiny-llama"
    settings = arguments(batch_size=8, gradient_accumulation=1)
    longest = max(rows, key=lambda row: len(row["labels"]))
    twice = {name: np.concatenate([value, value]) for name, value in longest.items()}
    watch = Shrunk()
    little = edgepeft.Guest(max_memory=total(bundle, [twice], 4))
    training = edgepeft.Trainer(edgepeft.load(bundle), settings)
    training.fit(rows, rows, callbacks=[watch], guest=little)
    assert not watch.told
    training.fit(rows, [*rows, twice], callbacks=[watch], guest=little)
    assert watch.told == [(4, total(bundle, [twice], 8), total(bundle, [twice], 4))]


def test_a_checkpoint_goes_on_with_less_memory(bundles: Path, rows: Rows, tmp_path: Path) -> None:
    """Made with the whole batch, resumed in parts, and the other way round: it is one run."""
    bundle = bundles / "tiny-llama"
    settings = arguments(batch_size=8, gradient_accumulation=1)
    plain = edgepeft.Trainer(edgepeft.load(bundle), settings).fit(rows)
    little = edgepeft.Guest(max_memory=total(bundle, rows, 2) + 1)
    for number, guests in enumerate(((None, little), (little, None), (little, little))):
        training = edgepeft.Trainer(edgepeft.load(bundle), settings)
        folder = tmp_path / str(number)
        training.fit(
            rows,
            callbacks=[Stop(training)],
            checkpoint_dir=folder,
            guest=guests[0],
        )
        result = edgepeft.Trainer(edgepeft.load(bundle), settings).fit(
            rows, checkpoint_dir=folder, resume=True, guest=guests[1]
        )
        assert result.losses == pytest.approx(plain.losses, rel=1e-5)


def test_a_row_that_does_not_fit(bundles: Path, rows: Rows) -> None:
    """Refused before the first step, with both numbers and what to do."""
    bundle = bundles / "tiny-llama"
    watch = Steps()
    little = edgepeft.Guest(max_memory=total(bundle, rows, 1) - 1)
    told = re.compile(
        r"one row of length \d+ is expected to take [\d.]+ MB of memory; max_memory is [\d.]+ MB\. "
        r"Lower max_length, or raise max_memory\.$"
    )
    with pytest.raises(MemoryLimitError, match=told):
        edgepeft.Trainer(edgepeft.load(bundle), arguments()).fit(rows, callbacks=[watch], guest=little)
    assert not watch.made


def plan(chosen: edgepeft.Guest, manifest: Manifest, now: int, kept: int = 0) -> guest.MemoryPlan:
    """Of 8 rows of length 19, by a process that holds so much."""
    planning = guest.Planning(chosen, manifest, STOCK, arguments(batch_size=8), Resident(now, kept))
    planning.longer(19)
    return planning.plan


def test_a_row_that_does_not_fit_into_what_is_available(bundles: Path, tmp_path: Path) -> None:
    """What was no limit of the user's is not called so; rows without a length cannot be shorter."""
    little = edgepeft.Guest(root=write(tmp_path, {"proc/meminfo": "MemAvailable: 1000 kB"}))
    for name, todo in (
        ("tiny-llama", "Lower max_length, end other programs, or set max_memory."),
        ("conv-net", "End other programs, or set max_memory."),
    ):
        manifest = edgepeft.Bundle.open(bundles / name).manifest
        with pytest.raises(MemoryLimitError, match=re.escape(f"memory; 1.02 MB are available. {todo}")):
            plan(little, manifest, 0)


def test_the_limit_is_what_is_available(bundles: Path, tmp_path: Path) -> None:
    """What the process holds of it already is not taken twice; nothing is refused where nothing is known."""
    manifest = edgepeft.Bundle.open(bundles / "tiny-llama").manifest
    needed = estimate.training_memory(manifest, 8, 19)
    assert needed is not None
    nothing = edgepeft.Guest(root=tmp_path)
    assert plan(nothing, manifest, 0) == guest.MemoryPlan(8)
    missing = math.ceil((needed.total - needed.loaded) / KiB)
    write(tmp_path, {"proc/meminfo": f"MemAvailable: {missing} kB"})
    held = int(needed.loaded) + 1
    assert plan(nothing, manifest, held).rows == 8
    assert plan(nothing, manifest, held - 200 * KiB).rows == 4
    write(tmp_path, {"proc/meminfo": f"MemAvailable: {missing - 100} kB"})
    assert plan(nothing, manifest, held).rows == 4


def test_what_a_process_holds_besides(bundles: Path, tmp_path: Path) -> None:
    """Other data is taken beside a training; buffers that an earlier one left are used again."""
    manifest = edgepeft.Bundle.open(bundles / "tiny-llama").manifest
    needed, one = (estimate.training_memory(manifest, rows, 19) for rows in (8, 1))
    assert needed is not None
    assert one is not None
    total, loaded, more = int(needed.total), int(needed.loaded), int(needed.total - one.total) // 2
    enough = edgepeft.Guest(max_memory=total + 1)
    assert plan(enough, manifest, loaded + more, kept=more).rows == 8
    assert 1 <= plan(enough, manifest, loaded + more).rows < 8
    larger = plan(edgepeft.Guest(max_memory=total + more + 1), manifest, loaded + more)
    assert larger == guest.MemoryPlan(8, total + more, total + more + 1, total - loaded)
    write(tmp_path, {"proc/meminfo": f"MemAvailable: {math.ceil((total - loaded) / KiB)} kB"})
    assert plan(edgepeft.Guest(root=tmp_path), manifest, loaded + 10 * more).rows == 8
    write(tmp_path, {"proc/meminfo": f"MemAvailable: {(total - loaded - more) // KiB + 1} kB"})
    assert plan(edgepeft.Guest(root=tmp_path), manifest, loaded + 10 * more).rows < 8
    assert plan(edgepeft.Guest(root=tmp_path), manifest, loaded + 10 * more, kept=more).rows == 8


@pytest.mark.stock("only its sessions share their buffers, and only of it is known what a process keeps")
def test_a_process_that_trains_again_and_again(bundles: Path) -> None:
    """Needs no more memory than for the first time: where that was enough, it stays enough."""
    program = f"""
import edgepeft, numpy as np
rows = [{{name: np.ones(19, np.int64) for name in ("input_ids", "attention_mask", "labels")}}] * 8
model = edgepeft.load({str(bundles / "tiny-llama")!r})
held = edgepeft.memory.resident().now
found = edgepeft.estimate.training_memory(model.bundle.manifest, 8, 19, engine=model.engine.name)
limit = int(found.total + max(0, held - found.loaded)) + (1 << 20)
settings = edgepeft.TrainingArguments(batch_size=8, max_steps=2)
told = []
class Watch(edgepeft.Callback):
    def on_shrink(self, *_):
        told.append("shrunk")
for _ in range(4):
    edgepeft.Trainer(edgepeft.load(model.bundle), settings).fit(rows, callbacks=[Watch()], guest=edgepeft.Guest(max_memory=limit))
print(told, edgepeft.memory.resident().now > held + (1 << 20))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]


def test_a_resumed_run_fits_where_it_began(bundles: Path, tmp_path: Path) -> None:
    """What it reads from its checkpoint is what the prediction counts already."""
    program = f"""
import edgepeft, sys
from edgepeft import bench, estimate
model = edgepeft.load({str(bundles / "wide")!r})
data = bench.random_rows(model.bundle.manifest, 8, 1)
found = estimate.training_memory(model.bundle.manifest, 2, engine=model.engine.name)
held = edgepeft.memory.resident().now
limit = int(found.total + max(0, held - found.loaded)) + model.adapter.size // 2
class Stop(edgepeft.Callback):
    def on_step_end(self, step, result):
        if step == 2 and len(sys.argv) > 1:
            trainer.stop()
    def on_shrink(self, *_):
        print("shrunk")
trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(batch_size=2, max_steps=4))
result = trainer.fit(data, callbacks=[Stop()], checkpoint_dir={str(tmp_path / "run")!r}, resume=True, guest=edgepeft.Guest(max_memory=limit))
print(result.steps)
"""
    for arguments_, steps in (["stop"], 2), ([], 4):
        command = [sys.executable, "-c", program, *arguments_]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == (f"{steps}\n", 0), done.stderr


def test_what_two_trainings_at_once_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is no more than the larger may have left, and no more than the process grew."""
    monkeypatch.undo()
    monkeypatch.setattr("edgepeft.memory._kept.bytes", 0)
    now = edgepeft.memory.resident().now
    for before, most, kept in (
        (now - 5000, 3000, 3000),
        (now - 5000, 2000, 3000),
        (now + (1 << 30), 9000, 3000),
    ):
        edgepeft.memory.keep(before, most)
        assert edgepeft.memory.resident().kept == kept
    edgepeft.memory.keep(0, 1 << 60)
    assert edgepeft.memory.resident().kept <= edgepeft.memory.resident().now


def test_a_long_row_that_comes_late_in_a_stream(
    bundles: Path, rows: Rows, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all rows are read before the first step: those from then on are run in smaller parts, or not at all."""
    monkeypatch.setattr("edgepeft.limits.MAX_HELD_FILE_BYTES", -1)
    monkeypatch.setattr("edgepeft.data.dataset._LOOKED_AT_ROWS", 8)
    bundle = bundles / "tiny-llama"
    short = [row for row in rows if len(row["labels"]) < 12][:1] * 24
    long = {name: np.resize(value, 64) for name, value in short[0].items()}
    settings = arguments(batch_size=4, gradient_accumulation=1, max_steps=6)
    watch, steps = Shrunk(), Steps()
    little = edgepeft.Guest(max_memory=total(bundle, [long], 2) + 1)
    edgepeft.Trainer(edgepeft.load(bundle), settings).fit(
        [*short[:16], long, *short[:7]], callbacks=[watch, steps], guest=little
    )
    assert watch.told == [(2, total(bundle, [long], 4), total(bundle, [long], 2) + 1)]
    whole = sizes.count(4)
    assert 0 < whole < 6
    assert sizes == [4] * whole + [2] * (12 - 2 * whole)
    less = edgepeft.Guest(max_memory=total(bundle, [long], 1) - 1)
    with pytest.raises(MemoryLimitError, match="one row of length 64"):
        edgepeft.Trainer(edgepeft.load(bundle), settings).fit(
            [*short[:16], long, *short[:7]], callbacks=[steps], guest=less
        )
    assert steps.made == whole


def test_the_length_of_rows_that_stream(bundles: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_length`, or that of the first rows: not all are read before the first step."""
    monkeypatch.setattr("edgepeft.limits.MAX_HELD_FILE_BYTES", -1)
    monkeypatch.setattr("edgepeft.data.dataset._LOOKED_AT_ROWS", 3)
    bundle = bundles / "tiny-llama"
    for settings, expected in (
        (arguments(), max(len(row["labels"]) for row in rows[:3])),
        (arguments(max_length=100), 100),
    ):
        little = edgepeft.Guest(max_memory=1)
        with pytest.raises(MemoryLimitError, match=f"one row of length {expected} is"):
            edgepeft.Trainer(edgepeft.load(bundle), settings).fit(rows, guest=little)
