"""Rows -> batches."""

from collections.abc import Sequence

import numpy as np

from edgepeft import names
from edgepeft.data.contract import IGNORED, Row
from edgepeft.manifest import Port
from edgepeft.tensors import Array


def collate(rows: Sequence[Row], ports: Sequence[Port], pad_token_id: int) -> dict[str, Array]:
    """Stacks rows into a batch, padded on the right to the longest along every axis that varies.

    Args:
        rows: The rows.
        ports: The graph's data inputs.
        pad_token_id: What `input_ids` is padded with; labels get -100, everything else 0.
    """
    fill = {"input_ids": pad_token_id, names.LABELS: IGNORED}
    batch: dict[str, Array] = {}
    for port in ports:
        values = [row[port.name] for row in rows]
        longest = np.max([value.shape for value in values], axis=0).astype(int)
        stacked = np.full((len(values), *longest), fill.get(port.name, 0), dtype=port.dtype)
        for index, value in enumerate(values):
            stacked[index, ...][tuple(slice(size) for size in value.shape)] = value
        batch[port.name] = stacked
    return batch
