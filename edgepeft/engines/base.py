"""What an engine does: run a bundle's graphs under an adapter, and turn batches into a better one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgepeft import names
from edgepeft.tensors import Array

#: Data inputs by name: a batch, as arrays whose first axis is the batch.
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class StepSettings:
    """Hyperparameters of one update, as `torch.optim` and `clip_grad_norm_` name them; each optimizer reads its own.

    Attributes:
        max_grad_norm: Largest global norm of the gradient; infinity for no clipping.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.0
    max_grad_norm: float = math.inf


@dataclass(frozen=True)
class StepResult:
    """What one update reports.

    Attributes:
        loss: Mean over what its batches counted, before the update.
        weight: How many labels or rows were counted.
        gradient_norm: Global norm of the gradient, before clipping.
        learning_rate: What the update was made with.
    """

    loss: float
    weight: float
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True)
class TrainState:
    """All that an update changes; the same on every engine.

    Attributes:
        optimizer: Its name in `names.OPTIMIZERS`.
        adapter: Tensors by name, float32.
        slots: By the kind of slot, what the optimizer keeps for each tensor, by the same names.
        step: Updates done so far.
    """

    optimizer: str
    adapter: Mapping[str, Array]
    slots: Mapping[str, Mapping[str, Array]]
    step: int

    @classmethod
    def fresh(cls, optimizer: str, adapter: Mapping[str, Array]) -> "TrainState":
        """The state before the first update: all slots are zero."""
        zeros = {name: np.zeros_like(value) for name, value in adapter.items()}
        return cls(optimizer, adapter, dict.fromkeys(names.OPTIMIZERS[optimizer].slots, zeros), step=0)


def weighted_mean(losses: Sequence[float], weights: Sequence[float]) -> float:
    """Mean of the batches' losses, each by what it counted; NaN where nothing was."""
    total = sum(weights)
    pairs = zip(losses, weights, strict=True)
    return sum(loss * weight for loss, weight in pairs if weight) / total if total else math.nan


class Stepper(Protocol):
    """A training run in progress."""

    def step(self, batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """Makes one update from the gradients of all batches, weighted by what each counts.

        Raises:
            NonFiniteLossError: The loss or the gradient is not finite; nothing was changed.
        """
        ...

    def state(self) -> TrainState:
        """A copy of the state after the last update."""
        ...


class Decoder(Protocol):
    """A language model that goes through a text once, with a key-value cache of what it has seen."""

    def next(self, ids: Array) -> Array:
        """Reads further tokens, [new] int64, and gives the scores of the one after them, [vocabulary] float32.

        Raises:
            EngineError: ONNX Runtime refused them.
        """
        ...


class Engine(Protocol):
    """Runs a bundle's graphs. Safe to call from several threads at once.

    Attributes:
        name: What it is called.
        breaks_off_steps: Whether `break_off` reaches a training step, too.
        workers: The system's numbers of the threads that compute for it.
    """

    name: str
    breaks_off_steps: bool
    workers: set[int]

    def prepare(self, tensors: Mapping[str, Array]) -> Any:
        """Makes an adapter ready to run with; the result is what `run` takes."""
        ...

    def run(self, graph: str, batch: Batch, adapter: Any) -> dict[str, Array]:
        """Runs a graph of the bundle and gives its outputs by name.

        Raises:
            EngineError: An input is missing, or of the wrong type or shape.
        """
        ...

    def decoder(self, adapter: Any) -> Decoder:
        """Starts at the beginning of a text, under an adapter that `prepare` made ready."""
        ...

    def stepper(self, state: TrainState) -> Stepper:
        """Starts training from a state."""
        ...

    def break_off(self) -> None:
        """Has the calls that are running fail soon, with an `EngineError`; for another thread to call."""
        ...
