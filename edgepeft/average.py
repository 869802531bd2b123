"""One adapter from many devices' adapters."""

import math
from collections.abc import Sequence

import numpy as np

from edgepeft.adapter import Adapter, changes_meaning, differing_settings
from edgepeft.errors import AdapterError, ArgumentError
from edgepeft.tensors import Array


def average(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The weighted mean of adapters, tensor by tensor, summed in float64: federated averaging.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1,
    the server's update: the sum of n_k / n times w_k, n_k being what device k has trained on. For LoRA it is the
    factors A and B that are averaged, not their products.

    Args:
        adapters: At least one; of the same method, settings, classes, base and shapes.
        weights: One for each, such as its number of rows; only their ratios count.

    Returns:
        An adapter with the first one's configuration; it is bound to a base if all of them are.

    Raises:
        ArgumentError: No adapter, another number of weights, a weight that is negative or not finite, or all zero.
        AdapterError: The adapters differ in more than values, or one holds NaN or infinity.
    """
    shares = _shares(weights, len(adapters))
    first = adapters[0]
    for index, adapter in enumerate(adapters, 1):
        _check_alike(index, adapter, first)
    return Adapter(
        {name: _mean([adapter.tensors[name] for adapter in adapters], shares) for name in first.tensors},
        first.config,
        first.base_id if all(adapter.base_id is not None for adapter in adapters) else None,
        first.labels,
    )


def _shares(weights: Sequence[float], count: int) -> list[float]:
    if not count:
        raise ArgumentError("there is no adapter to average; give one or more.")
    if len(weights) != count:
        raise ArgumentError(f"{len(weights)} weights for {count} adapters; expected one for each.")
    wrong = next((weight for weight in weights if not (math.isfinite(weight) and weight >= 0)), None)
    if wrong is not None:
        raise ArgumentError(f"a weight is {wrong}; expected 0 or more, and finite.")
    largest = max(weights)
    if not largest:
        raise ArgumentError("all weights are 0; expected one above it.")
    scaled = [weight / largest for weight in weights]  # their sum cannot overflow
    return [weight / math.fsum(scaled) for weight in scaled]


def _check_alike(index: int, adapter: Adapter, first: Adapter) -> None:
    """An adapter's settings, base, names and shapes are the first one's, and its values are finite."""
    where = f"adapter {index}"
    if None not in (adapter.base_id, first.base_id) and adapter.base_id != first.base_id:
        raise AdapterError(
            f"{where} was made for base {str(adapter.base_id)[:12]!r}, adapter 1 for {str(first.base_id)[:12]!r}. "
            "Merge adapters of one bundle only."
        )
    for field in filter(changes_meaning, differing_settings(adapter.config, first.config)):
        raise AdapterError(
            f"{where} has {field} {str(adapter.config.get(field))[:200]!r}, adapter 1 has "
            f"{str(first.config.get(field))[:200]!r}. Merge adapters of the same method and settings only."
        )
    if adapter.labels != first.labels:
        raise AdapterError(
            f"{where} names other classes than adapter 1. Merge adapters of the same classes only."
        )
    for name in sorted(adapter.tensors.keys() ^ first.tensors.keys()):
        has, lacks = (where, "adapter 1") if name in adapter.tensors else ("adapter 1", where)
        raise AdapterError(
            f"{has} has the tensor {name!r}, {lacks} lacks it. Merge adapters of one model only."
        )
    for name, value in adapter.tensors.items():
        if value.shape != first.tensors[name].shape:
            raise AdapterError(
                f"tensor {name!r} has shape {value.shape} in {where}, {first.tensors[name].shape} in adapter 1. "
                "Merge adapters of one model only."
            )
        if value.dtype != np.float32 or not np.isfinite(value).all():
            got = "NaN or infinity" if value.dtype == np.float32 else str(value.dtype)
            raise AdapterError(
                f"{where}: tensor {name!r} holds {got}; expected finite float32. Leave that adapter out."
            )


def _mean(values: Sequence[Array], shares: Sequence[float]) -> Array:
    total = np.zeros(values[0].shape, dtype=np.float64)
    for value, share in zip(values, shares, strict=True):
        total += share * value.astype(np.float64)
    return total.astype(np.float32)
