"""What trainings on a bundle take of memory, by batch size and length: for `edgepeft info` and `edgepeft doctor`."""

from typing import Any

from rich.table import Table

from edgepeft import estimate, names
from edgepeft.manifest import Manifest
from edgepeft.units import size_text

_BATCH_SIZES = (1, 2, 4, 8)
_LENGTHS = (64, 256, 1024)


def estimates(manifest: Manifest, engine: str) -> list[dict[str, Any]]:
    """Estimated peak memory of a training by batch size and, where rows have one, length; none where it is not known."""
    return [
        {"batch_size": batch_size, "length": length, "bytes": round(found.total)}
        for batch_size in _BATCH_SIZES
        for length in _lengths(manifest)
        if (found := estimate.training_memory(manifest, batch_size, length or 1, engine=engine))
    ]


def table(rows: list[dict[str, Any]]) -> Table:
    """Batch sizes down, lengths across; what does not fit is said where that is known."""
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    found = Table("batch size", *("" if n is None else f"length {n}" for n in lengths), box=None)
    for batch_size in dict.fromkeys(row["batch_size"] for row in rows):
        cells = [
            size_text(row["bytes"]) + (" too much" if row.get("fits") is False else "")
            for row in rows
            if row["batch_size"] == batch_size
        ]
        found.add_row(str(batch_size), *cells)
    return found


def _lengths(manifest: Manifest) -> list[int | None]:
    """Lengths of rows, where they have one; none at all of a bundle that does not train."""
    graph = manifest.graphs.get(names.TRAIN)
    if graph is None:
        return []
    if not estimate.has_length(graph):
        return [None]
    longest = manifest.text.max_length if manifest.text else max(_LENGTHS)
    return list(dict.fromkeys(min(length, longest) for length in _LENGTHS))
