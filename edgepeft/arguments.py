"""How to train: every setting of a run, checked, and what follows from them alone."""

import contextlib
import dataclasses
import difflib
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from edgepeft import names, schedules
from edgepeft.engines.base import StepSettings
from edgepeft.errors import ArgumentError

#: Passes over the data where neither passes nor steps are given.
DEFAULT_EPOCHS = 3

#: Rows of a batch, at most.
MAX_BATCH_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """How to train, in the words of Hugging Face's `TrainingArguments` and of `torch.optim.AdamW`.

    Attributes:
        optimizer: "adamw", or "sgd" with momentum, which keeps half as much beside the adapter.
        learning_rate: The optimizer's step size.
        lr_scheduler_type: What becomes of the learning rate after warm-up: "constant", "linear" or "cosine".
        warmup_steps: Updates in which the learning rate rises from 0.
        epochs: Passes over the data; give this or `max_steps`.
        max_steps: Updates to make.
        max_seconds: Stop after the step in which the call of `fit`, reading included and pauses left out, has taken
            so long; a limit besides the others.
        batch_size: Rows that are run at once.
        gradient_accumulation: Batches that make one update, each weighted by the tokens or rows it counts.
        beta1: Decay of AdamW's mean of gradients.
        beta2: Decay of AdamW's mean of squared gradients.
        epsilon: AdamW's guard against division by zero.
        momentum: SGD's momentum.
        weight_decay: AdamW's decoupled decay, or SGD's L2 penalty.
        max_grad_norm: Largest global norm of the gradient; infinity for no clipping.
        seed: Seed of the order of rows.
        max_length: Rows longer than this are cut, and counted; by default none is cut, and one that is longer than
            the model takes is an error.
        group_by_length: Whether a batch's rows are about equally long, so that little is padded.
        evaluate_every: Steps between evaluations; by default once, at the end.
        checkpoint_every: Steps between checkpoints; by default once, at the end.
        load_best_model_at_end: Whether the result is the adapter with the lowest held-out loss, not the last. Of a run that
            was stopped before it had measured what it trained, the result is the last.
        early_stopping_patience: Stop after so many evaluations in a row without a lower held-out loss; needs
            `evaluate_every`.

    Raises:
        ArgumentError: A setting is out of range, or lacks another that it needs.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-4
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    epochs: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None
    batch_size: int = 4
    gradient_accumulation: int = 1
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    max_length: int | None = None
    group_by_length: bool = False
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    load_best_model_at_end: bool = False
    early_stopping_patience: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.max_steps is None:
            object.__setattr__(self, "epochs", DEFAULT_EPOCHS)
        if self.epochs is not None and self.max_steps is not None:
            raise ArgumentError("epochs and max_steps are both given; expected one of them.")
        for name, choices in _CHOICES.items():
            object.__setattr__(self, name, _chosen(name, getattr(self, name), choices))
        for name, bounds in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, bounds.checked(name, value))
        if self.early_stopping_patience is not None and self.evaluate_every is None:
            raise ArgumentError(
                "early_stopping_patience needs evaluate_every, the steps between the evaluations that it counts."
            )

    def settings(self, step: int, total: int) -> StepSettings:
        """The hyperparameters of an update, counted from 1, of a run of so many."""
        factor = schedules.factor(self.lr_scheduler_type, step, total, self.warmup_steps)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(StepSettings)}
        return StepSettings(**(values | {"learning_rate": self.learning_rate * factor}))


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a setting may be: whole or not, from `lowest` (or just above it) to `highest`."""

    lowest: float
    highest: float
    whole: bool = False
    above_lowest: bool = False

    def checked(self, name: str, value: object) -> float:
        """The value as Python's own int or float."""
        kind, expected = (Integral, "a whole number") if self.whole else (Real, "a number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ArgumentError(f"{name} is {value!r}; expected {expected}.")
        try:
            number = int(value) if self.whole else float(value)  # type: ignore[call-overload]
        except OverflowError:
            number = math.inf
        fits = number > self.lowest if self.above_lowest else number >= self.lowest
        if not (fits and number <= self.highest):
            raise ArgumentError(f"{name} is {number}; expected {self._text()}.")
        return number

    def _text(self) -> str:
        least = f"{'more than' if self.above_lowest else 'at least'} {self.lowest:g}"
        return least if self.highest == math.inf else f"{least} and at most {self.highest:g}"


_COUNT = Range(lowest=1, highest=10**9, whole=True)
_ROWS = Range(lowest=1, highest=MAX_BATCH_ROWS, whole=True)


def _chosen(name: str, value: object, choices: tuple[object, ...]) -> object:
    """The choice itself: what equals it, such as a bool of NumPy, is none that a checkpoint can hold."""
    with contextlib.suppress(ValueError):
        return choices[choices.index(value)]
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.{hint}")


_CHOICES: dict[str, tuple[object, ...]] = {
    "optimizer": tuple(names.OPTIMIZERS),
    "lr_scheduler_type": tuple(schedules.CURVES),
    "load_best_model_at_end": (False, True),
    "group_by_length": (False, True),
}

_RANGES: dict[str, Range] = {
    "learning_rate": Range(lowest=0, highest=1e3, above_lowest=True),
    "warmup_steps": Range(lowest=0, highest=10**9, whole=True),
    "max_seconds": Range(lowest=0, highest=1e9, above_lowest=True),
    "momentum": Range(lowest=0, highest=1 - 1e-9),
    "early_stopping_patience": _COUNT,
    "epochs": _COUNT,
    "max_steps": _COUNT,
    "batch_size": _ROWS,
    "gradient_accumulation": _ROWS,
    "beta1": Range(lowest=0, highest=1 - 1e-9),
    "beta2": Range(lowest=0, highest=1 - 1e-12),
    "epsilon": Range(lowest=0, highest=1, above_lowest=True),
    "weight_decay": Range(lowest=0, highest=1e3),
    "max_grad_norm": Range(lowest=0, highest=math.inf, above_lowest=True),
    "seed": Range(lowest=0, highest=2**63 - 1, whole=True),
    "max_length": Range(lowest=2, highest=10**9, whole=True),
    "evaluate_every": _COUNT,
    "checkpoint_every": _COUNT,
}
_OPTIONAL = {
    "epochs",
    "max_steps",
    "max_seconds",
    "max_length",
    "evaluate_every",
    "checkpoint_every",
    "early_stopping_patience",
}


def steps_per_epoch(rows: int, arguments: TrainingArguments) -> int:
    """Updates that one pass over the rows makes."""
    return math.ceil(rows / (arguments.batch_size * arguments.gradient_accumulation))


def total_steps(rows: int, arguments: TrainingArguments) -> int:
    """Updates of the whole run."""
    if arguments.max_steps is not None:
        return arguments.max_steps
    assert arguments.epochs is not None
    return arguments.epochs * steps_per_epoch(rows, arguments)
