"""What an engine does: run a bundle's graphs under an adapter, and turn batches into a better one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgepeft.tensors import Array

#: Data inputs by name: a batch, as arrays whose first axis is the batch.
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class StepSettings:
    """Hyperparameters of one AdamW update, as `torch.optim.AdamW` and `clip_grad_norm_` name them.

    Attributes:
        max_grad_norm: Largest global norm of the gradient; infinity for no clipping.
    """

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class StepResult:
    """What one update reports.

    Attributes:
        loss: Mean over what its batches counted, before the update.
        weight: How many labels or rows were counted.
        gradient_norm: Global norm of the gradient, before clipping.
    """

    loss: float
    weight: float
    gradient_norm: float


@dataclass(frozen=True)
class TrainState:
    """All that an update changes; the same on every engine.

    Attributes:
        adapter: Tensors by name, float32.
        exp_avg: AdamW's mean of gradients, by the same names.
        exp_avg_sq: AdamW's mean of squared gradients, by the same names.
        step: Updates done so far.
    """

    adapter: Mapping[str, Array]
    exp_avg: Mapping[str, Array]
    exp_avg_sq: Mapping[str, Array]
    step: int


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


class Engine(Protocol):
    """Runs a bundle's graphs. Safe to call from several threads at once."""

    name: str

    def prepare(self, tensors: Mapping[str, Array]) -> Any:
        """Makes an adapter ready to run with; the result is what `run` takes."""
        ...

    def run(self, graph: str, batch: Batch, adapter: Any) -> dict[str, Array]:
        """Runs a graph of the bundle and gives its outputs by name.

        Raises:
            EngineError: An input is missing, or of the wrong type or shape.
        """
        ...

    def stepper(self, state: TrainState) -> Stepper:
        """Starts training from a state."""
        ...
