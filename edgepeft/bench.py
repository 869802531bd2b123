"""How fast a training on this machine is: some steps on random rows, and what the sensors say meanwhile."""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepeft import board, memory, names
from edgepeft.data import Row
from edgepeft.engines.base import StepSettings, TrainState
from edgepeft.manifest import Manifest, Port
from edgepeft.model import Model
from edgepeft.tensors import Array

#: Steps before the ones that count: they open sessions and make the memory grow.
WARMUP_STEPS = 2

#: Small enough that a training on random rows stays finite.
_LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Measured:
    """What a bench measured.

    Attributes:
        seconds: Of each step that counts.
        samples: Rows of a step.
        tokens: Tokens of a step; 0 for a model without.
        peak_memory_bytes: Largest resident size of the process.
        temperature: The highest meanwhile, in degrees Celsius.
        throttling: What slowed the processor down meanwhile, within a step too if the board keeps that and had not kept it
            before; `None` where the board does not say.
        watts: Median of what the board reported.
        interrupted: Whether Ctrl-C came before all steps were made.
    """

    seconds: Sequence[float]
    samples: int
    tokens: int
    peak_memory_bytes: int
    temperature: float | None
    throttling: tuple[str, ...] | None
    watts: float | None
    interrupted: bool

    @property
    def median_seconds(self) -> float:
        """Of a step."""
        return statistics.median(self.seconds)


def measure(model: Model, batch_size: int, length: int, steps: int, root: Path = board.ROOT) -> Measured:
    """Trains for some steps, AdamW included. Ctrl-C ends it early, once there is a step that counts.

    Args:
        model: The model; its adapter stays as it is.
        batch_size: Rows of a batch.
        length: Length of every row, for models whose rows have one.
        steps: Steps that count.
        root: Where the kernel's files are.
    """
    manifest = model.bundle.manifest
    batch = model.collate(random_rows(manifest, batch_size, length))
    stepper = model.engine.stepper(TrainState.fresh("adamw", model.adapter.tensors))
    seconds: list[float] = []
    seen: list[board.Sensors] = []
    past: list[frozenset[str]] = []
    sensors = board.find_sensors(root)
    interrupted = False
    try:
        for _ in range(WARMUP_STEPS + steps):
            started = time.perf_counter()
            stepper.step([batch], StepSettings(learning_rate=_LEARNING_RATE, max_grad_norm=1.0))
            seconds.append(time.perf_counter() - started)
            past.append(board.past_throttling(sensors))
            seen.append(board.read_sensors(sensors))
    except KeyboardInterrupt:
        interrupted = True
        if len(seen) <= WARMUP_STEPS:
            raise
    counted = seen[WARMUP_STEPS:]
    told = [now.throttling for now in counted if now.throttling is not None]
    within = [sorted(now - before) for before, now in itertools.pairwise(past[WARMUP_STEPS - 1 :])]
    watts = [now.watts for now in counted if now.watts is not None]
    return Measured(
        seconds=seconds[WARMUP_STEPS : len(seen)],
        samples=batch_size,
        tokens=batch["input_ids"].size if "input_ids" in batch else 0,
        peak_memory_bytes=memory.peak_bytes(),
        temperature=max((now.temperature for now in counted if now.temperature is not None), default=None),
        throttling=tuple(dict.fromkeys(itertools.chain(*told, *within))) if told else None,
        watts=statistics.median(watts) if watts else None,
        interrupted=interrupted,
    )


def random_rows(manifest: Manifest, count: int, length: int) -> list[Row]:
    """Rows as the train graph takes them: no padding, and every label counts."""
    generator = np.random.default_rng(0)
    ports = manifest.data_inputs(names.TRAIN)
    return [{port.name: _array(port, length, manifest, generator) for port in ports} for _ in range(count)]


def _array(port: Port, length: int, manifest: Manifest, generator: np.random.Generator) -> Array:
    shape = [size if isinstance(size, int) else length for size in port.shape[1:]]
    if port.dtype == "float32":
        return generator.standard_normal(shape).astype(np.float32)
    if "mask" in port.name:
        return np.ones(shape, port.dtype)
    # What a token or a class may be is not in the manifest for every model: the first two always are.
    return generator.integers(0, min(2, manifest.classes or 2), shape).astype(port.dtype)
