"""What a model says of a row: a class and how sure it is, or numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from edgepeft.data import Row
from edgepeft.errors import EngineError
from edgepeft.labels import listed
from edgepeft.manifest import Port
from edgepeft.tensors import Array


@dataclass(frozen=True)
class Classification:
    """What a classifier says of a row.

    Attributes:
        label: Name of the likeliest class; its number where classes have no names.
        index: Its place among the model's logits.
        probability: How likely it is, 0 to 1.
        probabilities: How likely each class is, by its name, in the model's order; they add up to 1.
    """

    label: str
    index: int
    probability: float
    probabilities: Mapping[str, float]

    def __repr__(self) -> str:
        """The class alone: there can be thousands of others."""
        return (
            f"<Classification {self.label!r}, {self.probability:.4g}, of {len(self.probabilities)} classes>"
        )


@dataclass(frozen=True, eq=False)
class Regression:
    """What a regression says of a row.

    Attributes:
        values: The numbers, float32.
        labels: What they are called, if the bundle says so.
    """

    values: Array
    labels: tuple[str, ...] | None

    def __repr__(self) -> str:
        """The first few numbers: there can be thousands."""
        numbers = [f"{value:.4g}" for value in self.values.reshape(-1).tolist()]
        told = map(" ".join, zip(self.labels, numbers, strict=True)) if self.labels else numbers
        return f"<Regression {listed(list(told), 'of no numbers')}>"

    @property
    def by_label(self) -> dict[str, float]:
        """The numbers by name; by their place where they have none."""
        flat = self.values.reshape(-1).tolist()
        return dict(zip(self.labels or map(str, range(len(flat))), flat, strict=True))


def classification(logits: Array, labels: Sequence[str] | None) -> Classification:
    """The likeliest class by a row's scores.

    Args:
        logits: [classes], of any float type.
        labels: Names of the first classes; the others, which were never trained on, do not take part.

    Raises:
        EngineError: No class is the likeliest: the scores hold NaN or infinity.
    """
    named = labels if labels is not None else [str(index) for index in range(len(logits))]
    shares = softmax(logits[: len(named)])
    index = int(shares.argmax())
    by_label = dict(zip(named, shares.tolist(), strict=True))
    return Classification(named[index], index, float(shares[index]), MappingProxyType(by_label))


def softmax(scores: Array) -> Array:
    """Probabilities [classes] float64 from scores [classes]; a score of minus infinity is never.

    Raises:
        EngineError: The largest score is not a finite number.
    """
    largest = scores.max()
    if not np.isfinite(largest):
        raise EngineError(
            "the model's scores hold NaN or infinity. Look at the row, or at the adapter's training."
        )
    shares = np.exp(scores.astype(np.float64) - largest)
    result: Array = shares / shares.sum()
    return result


def split(
    outputs: Mapping[str, Array], rows: Sequence[Row], inputs: Sequence[Port], ports: Sequence[Port]
) -> Iterator[dict[str, Array]]:
    """The outputs of each row of a batch, without the batch axis and what the row was padded with.

    Args:
        outputs: The graph's outputs.
        rows: The rows of the batch.
        inputs: The graph's data inputs.
        ports: The graph's outputs as the manifest has them.
    """
    for index, row in enumerate(rows):
        sizes = {
            axis: size
            for port in inputs
            for axis, size in zip(port.shape[1:], row[port.name].shape, strict=True)
            if isinstance(axis, str)
        }
        yield {
            port.name: outputs[port.name][index][
                tuple(slice(sizes.get(str(axis))) for axis in port.shape[1:])
            ]
            for port in ports
        }
