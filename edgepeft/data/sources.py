"""From what a user gives to records: which kind of data it is."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgepeft import names
from edgepeft.data import files, mistaken, npy
from edgepeft.data.contract import Data, Records
from edgepeft.data.csv_files import CsvFile
from edgepeft.data.dataset import Dataset
from edgepeft.data.encode import Encoder
from edgepeft.data.images import ImageFolder
from edgepeft.data.in_memory import Columns, Rows
from edgepeft.data.json_lines import JsonLines
from edgepeft.data.lines import IndexedFile
from edgepeft.data.npy import NpyFiles
from edgepeft.errors import DataError
from edgepeft.manifest import Manifest
from edgepeft.text import Text


def open_dataset(
    data: Data,
    manifest: Manifest,
    text: Text | None,
    labels: Sequence[str] | None,
    *,
    graph: str = names.TRAIN,
    max_length: int | None = None,
) -> Dataset:
    """Opens data of any kind. Nothing is dropped silently: a row is used, or told.

    Args:
        data: A file, a folder, columns by name, or rows.
        manifest: The bundle's manifest.
        text: The bundle's tokenizer, for text.
        labels: Names of the classes, in order.
        graph: The graph that the rows are for; without labels if it takes none.
        max_length: Longer rows are cut to this.

    Raises:
        DataError: The data cannot be read, or a row is of no use; the message says which and why.
        ArgumentError: `max_length` does not fit the model.
    """
    encoder = Encoder(manifest, text, labels, graph=graph, max_length=max_length)
    return Dataset(_records(data, encoder), encoder)


def _records(data: Data, encoder: Encoder) -> Records:
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        with files.refusals(path):
            folder = path.is_dir()
        if folder:
            return _folder(path, encoder)
        return _FILES.get(path.suffix.lower(), _json_lines)(path, encoder)
    return Columns(data, encoder.reads) if isinstance(data, Mapping) else Rows(data, encoder.reads)


def _json_lines(path: Path, encoder: Encoder) -> Records:
    mistaken.check_json_lines(path)
    return IndexedFile(path, lambda _: JsonLines(), encoder.check)


def _csv(path: Path, encoder: Encoder) -> Records:
    mistaken.check_csv(path)
    text = encoder.text is not None
    return IndexedFile(
        path, lambda lines: CsvFile(lines, encoder.ports, encoder.classes, text=text), encoder.check
    )


def _npy(path: Path, encoder: Encoder) -> Records:
    if len(encoder.ports) != 1:
        inputs = ", ".join(f"{port.name}{npy.SUFFIX}" for port in encoder.ports)
        raise DataError(f"{path}: is one array; the model takes several. Put {inputs} into a folder.")
    return NpyFiles(str(path), {encoder.ports[0].name: path})


def _folder(path: Path, encoder: Encoder) -> Records:
    """Arrays where there is one; else images by class."""
    if any(entry.name.endswith(npy.SUFFIX) for entry in files.entries(path)):
        arrays = npy.in_folder(path)
        try:
            encoder.check(dict.fromkeys(arrays))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        return NpyFiles(str(path), arrays)
    image = encoder.manifest.image
    if image is None:
        raise DataError(
            f"{path}: is a folder without .npy files, and this bundle does not say how images are prepared. "
            "Export it with `image`, or give arrays."
        )
    labelled = any(port.name == names.LABELS for port in encoder.ports)
    return ImageFolder(path, image, encoder.classes or [], labelled=labelled)


#: By the end of a file's name; any other is JSON Lines.
_FILES: dict[str, Callable[[Path, Encoder], Records]] = {".csv": _csv, npy.SUFFIX: _npy}
