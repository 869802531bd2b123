"""Learning-rate schedules: the factors of `transformers.get_scheduler`, which transformers' Trainer uses too."""

import math
from collections.abc import Callable

Curve = Callable[[float], float]

#: By name: the factor after warm-up, as a function of how much of the rest is done, from 0 to 1.
CURVES: dict[str, Curve] = {
    "constant": lambda _: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


def factor(schedule: str, step: int, total: int, warmup_steps: int) -> float:
    """What the learning rate is multiplied with.

    Args:
        schedule: A name in `CURVES`.
        step: The update, counted from 1.
        total: Updates of the whole run.
        warmup_steps: Updates in which the factor rises from 0; the first is made with 0.
    """
    done = step - 1
    if done < warmup_steps:
        return done / warmup_steps
    return max(0.0, CURVES[schedule]((done - warmup_steps) / max(1, total - warmup_steps)))
