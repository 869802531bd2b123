"""Folders of `.npy` files, one an input, read a row at a time.

They are read by position rather than mapped into memory: a file that is cut short while it is mapped ends the process
without a word, and mapped pages count as memory of the process.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from edgepeft import limits
from edgepeft.data import files
from edgepeft.data.contract import Record
from edgepeft.errors import DataError
from edgepeft.tensors import Array

SUFFIX = ".npy"

#: Headers that are known: version 3.0 is only for names of fields, which no array of numbers has.
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpyFile:
    """An array in a file, read along its first axis; never pickle, nor anything else that is no number.

    Raises:
        DataError: The file cannot be read, or its header is not that of what follows it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.opened(path) as file:
            self._signature = files.signature(file)
            self.size = self._signature[1]
            self.dtype, self.shape = _header(path, file)
            self._start = file.tell()
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        expected = self._start + self.shape[0] * self._row_bytes
        if self.size != expected:
            raise DataError(
                f"{path}: has {self.size:,} bytes; its header, {self.dtype} {list(self.shape)}, makes {expected:,}. "
                "Save it again."
            )
        if self._row_bytes > limits.MAX_ROW_BYTES:
            raise DataError(
                f"{path}: a row takes {self._row_bytes:,} bytes; expected at most {limits.MAX_ROW_BYTES:,}."
            )

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: Sequence[int]) -> list[Array]:
        """The rows at some indices.

        Raises:
            DataError: The file cannot be read any more, or was changed.
        """
        with files.opened(self.path) as file:
            if files.signature(file) != self._signature:
                raise DataError(f"{self.path}: was changed while it was in use. Start again.")
            contents = [
                os.pread(file.fileno(), self._row_bytes, self._start + index * self._row_bytes)
                for index in indices
            ]
        if any(len(content) != self._row_bytes for content in contents):
            raise DataError(f"{self.path}: became shorter while it was read. Start again.")
        return [np.frombuffer(content, self.dtype).reshape(self.shape[1:]) for content in contents]


class NpyFiles:
    """Rows of several arrays that are equally long.

    Args:
        name: What they are called in a message.
        paths: The file of each input.

    Raises:
        DataError: A file is of no use, or they are not equally long.
    """

    def __init__(self, name: str, paths: Mapping[str, Path]) -> None:
        self.name = name
        self._files = {name: NpyFile(path) for name, path in paths.items()}
        self.size = sum(file.size for file in self._files.values())
        lengths = {name: len(file) for name, file in self._files.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(
                f"{self.name}: its arrays are not equally long: {told}. Save one value a row in each."
            )
        self._length = next(iter(lengths.values()), 0)

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Sequence[int]) -> list[tuple[str, Record]]:
        """The rows at some indices."""
        columns = {name: file.read(indices) for name, file in self._files.items()}
        return [
            (f"{self.name}: row {index + 1}", {name: column[place] for name, column in columns.items()})
            for place, index in enumerate(indices)
        ]

    def digest(self) -> str:
        """SHA-256 of the files and the inputs' names."""
        digest = hashlib.sha256()
        for name in sorted(self._files):
            digest.update(f"{len(name)} {name}".encode() + files.sha256(self._files[name].path))
        return digest.hexdigest()


def in_folder(folder: Path) -> dict[str, Path]:
    """The files of a folder of arrays, by the names of the inputs.

    Raises:
        DataError: The folder holds something else too.
    """
    entries = files.entries(folder)
    other = next((entry for entry in entries if not entry.name.endswith(SUFFIX)), None)
    if other is not None:
        raise DataError(
            f"{other.path}: expected only .npy files here, each named after an input of the model."
        )
    return {entry.name.removesuffix(SUFFIX): Path(entry.path) for entry in entries}


def _header(path: Path, file: BufferedReader) -> tuple[Any, tuple[int, ...]]:
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _HEADERS[version](file)
    except Exception as error:  # a header is a Python literal: what is wrong with it can be anything
        raise DataError(
            f"{path}: is no .npy file: {' '.join(str(error).split())[:200]}. Save it again."
        ) from error
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{path}: holds {str(dtype)[:80]}; expected numbers.")
    if not 1 <= len(shape) <= limits.MAX_AXES or not all(type(size) is int and size >= 0 for size in shape):
        raise DataError(f"{path}: has shape {str(shape)[:80]}; expected the rows as its first axis.")
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: is in Fortran's order. Save it from numpy.ascontiguousarray.")
    return dtype, shape
