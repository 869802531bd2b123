"""Strict reading of safetensors: the header is checked before the library, or anything else, believes it.

The library refuses what breaks the format. This adds what it lets through: duplicate keys, absurd counts, sizes
and names. Format: https://huggingface.co/docs/safetensors, section "Format".
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from edgepeft import limits, strict_json
from edgepeft.store import MakeError

Array = npt.NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]*")

#: The header's length stands in front of it, and it is filled up to a multiple of as many bytes.
_LENGTH_BYTES = 8


class Entry(NamedTuple):
    """Where a tensor lies in its file: `begin` and `end` in bytes from the file's start."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What a safetensors file says about itself, checked."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def parse_header(content: memoryview, where: str, error: MakeError) -> Header:
    """Checks a file's header and layout against its size; reads no tensor.

    Args:
        content: A whole safetensors file.
        where: Its name, for messages.
        error: The error to raise.

    Raises:
        EdgepeftError: Of the given type, if anything about the header or the layout is off.
    """
    header, start = _read_header(content, where, error)
    metadata = _metadata(header.pop(_METADATA, {}), where, error)
    if len(header) > limits.MAX_TENSORS:
        raise error(f"{where}: expected at most {limits.MAX_TENSORS:,} tensors, got {len(header):,}.")
    entries = {name: _entry(name, row, start, where, error) for name, row in header.items()}
    _check_layout(entries, start, len(content), where, error)
    return Header(entries, metadata)


def parse(content: memoryview, where: str, error: MakeError) -> tuple[dict[str, Array], dict[str, str]]:
    """Reads tensors and metadata without a copy: the tensors are read-only views of `content`.

    Args:
        content: A whole safetensors file, read-only.
        where: Its name, for messages.
        error: The error to raise.

    Raises:
        EdgepeftError: Of the given type, if anything about the header or the layout is off.
    """
    entries, metadata = parse_header(content, where, error)
    arrays: dict[str, Array] = {
        name: np.ndarray(entry.shape, entry.dtype, buffer=content, offset=entry.begin)
        for name, entry in entries.items()
    }
    return arrays, metadata


def parse_checked(
    content: memoryview, where: str, error: MakeError
) -> tuple[dict[str, Array], dict[str, str]]:
    """Reads a file from elsewhere: once the header is checked, the safetensors library reads the tensors.

    Args:
        content: A whole safetensors file.
        where: Its name, for messages.
        error: The error to raise.

    Returns:
        Tensors in the file's order, read-only and apart from `content`, and metadata.

    Raises:
        EdgepeftError: Of the given type, if anything is off, or the library sees something else in the file.
    """
    entries, metadata = parse_header(content, where, error)
    try:
        loaded: dict[str, Array] = load(bytes(content))  # in another order each time
    except (SafetensorError, ValueError, KeyError, TypeError) as cause:
        raise error(f"{where}: the safetensors library refuses it: {cause}. Copy it again.") from cause
    expected = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    if {name: (array.dtype, array.shape) for name, array in loaded.items()} != expected:
        raise error(f"{where}: two readers see different tensors in it. Do not use it.")
    for array in loaded.values():
        array.flags.writeable = False
    return {name: loaded[name] for name in entries}, metadata


def serialize(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; the same tensors and metadata give the same bytes (the library shuffles metadata).

    Args:
        tensors: Arrays by name, of a dtype that `parse` reads.
        metadata: Texts by name.
    """
    return b"".join(pieces(tensors, metadata))


def pieces(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """What `serialize` gives, a tensor at a time and without a copy of any: a file of it may be large."""
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    # As the library lays them out: wide types first, so that each tensor is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in order:
        end = position + arrays[name].nbytes
        code = _CODES[arrays[name].dtype.newbyteorder("<")]
        header[name] = {"dtype": code, "shape": list(arrays[name].shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _LENGTH_BYTES)
    yield len(text).to_bytes(_LENGTH_BYTES, "little") + text
    for name in order:
        array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        yield array.reshape(-1).view(np.uint8).data


def _read_header(content: memoryview, where: str, error: MakeError) -> tuple[dict[str, Any], int]:
    """The header as JSON, and the byte at which the tensors start."""
    if len(content) < _LENGTH_BYTES:
        raise error(f"{where}: expected a safetensors file, got {len(content)} bytes. Copy it again.")
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if not 2 <= length <= min(limits.MAX_HEADER_BYTES, len(content) - _LENGTH_BYTES):
        raise error(
            f"{where}: header length {length:,} is impossible for a file of {len(content):,} bytes "
            f"(at most {limits.MAX_HEADER_BYTES:,}). Not a safetensors file, or cut off: copy it again."
        )
    start = _LENGTH_BYTES + length
    text = content[_LENGTH_BYTES:start]
    if text[0] != ord("{"):
        raise error(
            f"{where}: the header must begin with '{{', got {bytes(text[:1])!r}. Not a safetensors file."
        )
    return strict_json.decode(text, f"{where}, header", error), start


def _metadata(value: Any, where: str, error: MakeError) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise error(f"{where}: the metadata is not a mapping of text to text. Save the file again.")
    size = sum(len(key.encode()) + len(item.encode()) for key, item in value.items())
    if size > limits.MAX_METADATA_BYTES:
        raise error(
            f"{where}: expected at most {limits.MAX_METADATA_BYTES:,} bytes of metadata, got {size:,}."
        )
    return value


def _entry(name: str, row: Any, start: int, where: str, error: MakeError) -> Entry:
    """Checks one tensor's row of the header."""
    if len(name) > limits.MAX_NAME_LENGTH or not _NAME.fullmatch(name) or ".." in name:
        raise error(
            f"{where}: {name[:80]!r} is no name for a tensor "
            f"(at most {limits.MAX_NAME_LENGTH} of the letters, digits and . _ - / :)."
        )
    if not isinstance(row, dict) or row.keys() != _FIELDS:
        raise error(f"{where}: tensor {name!r} does not have exactly dtype, shape and data_offsets.")
    dtype = _DTYPES.get(row["dtype"]) if isinstance(row["dtype"], str) else None
    if dtype is None:
        got = str(row["dtype"])[:40]
        raise error(f"{where}: tensor {name!r} has dtype {got!r}; expected one of {', '.join(_DTYPES)}.")
    shape, offsets = row["shape"], row["data_offsets"]
    if not _sizes(shape) or len(shape) > limits.MAX_AXES or max(shape, default=0) > limits.MAX_AXIS_LENGTH:
        raise error(
            f"{where}: tensor {name!r} has an impossible shape {str(shape)[:80]}; "
            f"expected up to {limits.MAX_AXES} whole numbers up to {limits.MAX_AXIS_LENGTH:,}."
        )
    if not _sizes(offsets) or len(offsets) != 2:
        raise error(f"{where}: tensor {name!r} has impossible data_offsets {str(offsets)[:80]}.")
    size = math.prod(shape) * dtype.itemsize  # Python's integers do not wrap
    if offsets[1] - offsets[0] != size:
        raise error(
            f"{where}: tensor {name!r} of shape {shape} needs {size} bytes, its data_offsets say {offsets}."
        )
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(entries: Mapping[str, Entry], start: int, size: int, where: str, error: MakeError) -> None:
    """Tensors must cover the data exactly: nothing shared, hidden, cut off or left over."""
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != position:
            fault = "overlaps another" if entry.begin < position else "leaves a hole before it"
            raise error(f"{where}: tensor {name!r} {fault}, at byte {entry.begin}. Do not use the file.")
        position = entry.end
    if position > size:
        raise error(
            f"{where}: its tensors end at byte {position}, the file at {size}. Cut off: copy it again."
        )
    if position < size:
        raise error(f"{where}: {size - position} bytes follow the last tensor. Copy the file again.")
