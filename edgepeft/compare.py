"""How far two adapters are from each other."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepeft import names
from edgepeft.adapter import Adapter, differing_settings
from edgepeft.tensors import Array


@dataclass(frozen=True)
class Distance:
    """How far two tensors of one shape are apart.

    Attributes:
        relative_l2: L2 norm of the difference, by the larger of the two norms: 0 for equal tensors, 1 where one
            of them is zero.
        max_abs: Largest magnitude of the difference.
        cosine: Cosine of the angle between them; NaN where one is zero.
    """

    relative_l2: float
    max_abs: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """What differs between two adapters.

    Attributes:
        tensors: Distances of the tensors that both have in one shape, the largest change first.
        total: Distance of all those tensors, as one vector; `None` where there are none.
        settings: Configuration fields that differ, with the two values; `None` where one lacks the field.
        base_ids: The bases they were made for, if they differ; `None` where a file does not say.
        labels: Names of the classes, if they differ; `None` for the bundle's own.
        only_in_first: Names of tensors that the second lacks.
        only_in_second: Names of tensors that the first lacks.
        other_shape: Names of tensors whose shapes differ.
    """

    tensors: Mapping[str, Distance]
    total: Distance | None
    settings: Mapping[str, tuple[Any, Any]]
    base_ids: tuple[str | None, str | None] | None
    labels: tuple[tuple[str, ...] | None, tuple[str, ...] | None] | None
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    other_shape: tuple[str, ...]


def compare(first: Adapter, second: Adapter) -> Comparison:
    """Compares two adapters tensor by tensor, in float64; neither needs to fit a bundle."""
    firsts, seconds = (sorted(one.tensors, key=names.natural) for one in (first, second))
    both = [name for name in firsts if name in second.tensors]
    alike = [name for name in both if first.tensors[name].shape == second.tensors[name].shape]
    sums = {name: _sums(first.tensors[name], second.tensors[name]) for name in alike}
    distances = {name: _distance([found]) for name, found in sums.items()}
    settings = differing_settings(first.config, second.config)
    ids = (first.base_id, second.base_id)
    labels = (first.labels, second.labels)
    return Comparison(
        tensors=dict(sorted(distances.items(), key=lambda item: -item[1].relative_l2)),
        total=_distance(sums.values()) if sums else None,
        settings={field: (first.config.get(field), second.config.get(field)) for field in settings},
        base_ids=ids if ids[0] != ids[1] else None,
        labels=labels if labels[0] != labels[1] else None,
        only_in_first=tuple(name for name in firsts if name not in second.tensors),
        only_in_second=tuple(name for name in seconds if name not in first.tensors),
        other_shape=tuple(name for name in both if name not in sums),
    )


@dataclass(frozen=True)
class _Sums:
    """Sums over a pair's elements that add up over several pairs."""

    first: float
    second: float
    difference: float
    product: float
    largest: float


def _sums(first: Array, second: Array) -> _Sums:
    one, other = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    change = other - one
    largest = float(np.abs(change).max(initial=0.0))
    return _Sums(float(one @ one), float(other @ other), float(change @ change), float(one @ other), largest)


def _distance(parts: Iterable[_Sums]) -> Distance:
    found = list(parts)
    first, second, difference, product = (
        math.fsum(getattr(part, field) for part in found)
        for field in ("first", "second", "difference", "product")
    )
    longer = math.sqrt(max(first, second))
    both = math.sqrt(first) * math.sqrt(second)
    return Distance(
        relative_l2=math.sqrt(difference) / longer if longer else 0.0,
        max_abs=max((part.largest for part in found), default=0.0),
        cosine=product / both if both else math.nan,
    )
