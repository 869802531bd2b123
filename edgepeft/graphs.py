"""What the graphs of a bundle take and give besides their data, by name (docs/bundle-format.md, "Graphs")."""

from collections.abc import Sequence
from typing import NamedTuple

from edgepeft import names


class Contract(NamedTuple):
    """Names of inputs and outputs that a graph has; further ones are data, or the model's own outputs."""

    inputs: list[str]
    outputs: list[str]


def contracts(tensors: Sequence[str], task: str) -> dict[str, Contract]:
    """Every graph that a runtime calls, with what it must have.

    Args:
        tensors: Names of the adapter's tensors.
        task: The bundle's task.
    """
    gradients = [names.gradient(tensor) for tensor in tensors]
    means = [names.accumulated(tensor) for tensor in tensors]
    labels = [] if task == "generic" else [names.LABELS]
    scores = [] if task == "generic" else [names.LOGITS]
    running = [*means, names.ACCUMULATED_WEIGHT]
    measured = [names.LOSS, names.WEIGHT]
    return {
        names.INFER: Contract([*tensors], scores),
        names.EVALUATE: Contract(
            [*tensors, *labels], [*measured, *(scores if task == "sequence_classification" else [])]
        ),
        names.TRAIN: Contract([*tensors, *labels], [*measured, *gradients]),
        names.ACCUMULATE: Contract(
            [*running, *gradients, names.WEIGHT], [names.new(name) for name in running]
        ),
    } | {
        names.update_graph(optimizer): _update(tensors, gradients, kind)
        for optimizer, kind in names.OPTIMIZERS.items()
    }


def _update(tensors: Sequence[str], gradients: Sequence[str], optimizer: names.Optimizer) -> Contract:
    kept = [*tensors, *(names.slot(kind, tensor) for kind in optimizer.slots for tensor in tensors)]
    return Contract(
        [*kept, *gradients, names.STEP, *optimizer.settings],
        [*(names.new(name) for name in kept), names.GRADIENT_NORM],
    )
