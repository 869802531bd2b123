"""Strict reading of safetensors: the header is checked before the library, or anything else, believes it.

The library refuses what breaks the format. This adds what it lets through: duplicate keys, absurd counts, sizes
and names. Format: https://huggingface.co/docs/safetensors, section "Format".
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgepeft import limits
from edgepeft.errors import EdgepeftError

Array = npt.NDArray[Any]

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_LENGTH_BYTES = 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]*")


def parse(content: memoryview, where: str, error: Callable[[str], EdgepeftError]) -> tuple[dict[str, Array], dict[str, str]]:
    """Reads tensors and metadata; the tensors are read-only views of `content`.

    Args:
        content: A whole safetensors file.
        where: Its name, for messages.
        error: The error to raise.

    Raises:
        EdgepeftError: Of the given type, if anything about the header or the layout is off.
    """
    header, start = _header(content, where, error)
    metadata = _metadata(header.pop("__metadata__", {}), where, error)
    if len(header) > limits.MAX_TENSORS:
        raise error(f"{where}: expected at most {limits.MAX_TENSORS:,} tensors, got {len(header):,}.")
    spans: list[tuple[int, int]] = []
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry, where, error)
        if not start + end <= len(content):
            raise error(f"{where}: tensor {name!r} ends at byte {start + end}, behind the file's end.")
        spans.append((begin, end))
        flat = np.frombuffer(content[start + begin : start + end], dtype=dtype)
        tensors[name] = flat.reshape(shape)
    _check_layout(spans, len(content) - start, where, error)
    return tensors, metadata


def parse_checked(
    content: memoryview, where: str, error: Callable[[str], EdgepeftError]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Like `parse`, and the safetensors library must agree: two readers for a file from elsewhere."""
    tensors, metadata = parse(content, where, error)
    try:
        agreed = load(bytes(content))
    except (SafetensorError, ValueError, KeyError) as cause:
        raise error(f"{where}: the safetensors library refuses it: {cause}.") from cause
    if agreed.keys() != tensors.keys():
        raise error(f"{where}: two readers see different tensors in it.")
    return tensors, metadata


def serialize(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; the same tensors give the same bytes."""
    return save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, dict(metadata))


def _header(content: memoryview, where: str, error: Callable[[str], EdgepeftError]) -> tuple[dict[str, Any], int]:
    if len(content) < _LENGTH_BYTES:
        raise error(f"{where}: expected a safetensors file, got {len(content)} bytes. Copy it again.")
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if not 2 <= length <= min(limits.MAX_HEADER_BYTES, len(content) - _LENGTH_BYTES):
        raise error(
            f"{where}: header length {length:,} is impossible for a file of {len(content):,} bytes "
            f"(at most {limits.MAX_HEADER_BYTES:,}). Not a safetensors file, or cut off."
        )
    start = _LENGTH_BYTES + length
    try:
        text = bytes(content[_LENGTH_BYTES:start]).decode("utf-8")
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as cause:
        raise error(f"{where}: the header is not valid: {_reason(cause)}.") from cause
    if not isinstance(header, dict) or not text.startswith("{"):
        raise error(f"{where}: the header is not a JSON object.")
    return header, start


def _reason(cause: Exception) -> str:
    return "nested too deeply" if isinstance(cause, RecursionError) else str(cause)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands there twice")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _metadata(value: Any, where: str, error: Callable[[str], EdgepeftError]) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise error(f"{where}: the metadata is not a mapping of text to text.")
    size = sum(len(key) + len(item) for key, item in value.items())
    if size > limits.MAX_METADATA_BYTES:
        raise error(f"{where}: expected at most {limits.MAX_METADATA_BYTES:,} bytes of metadata, got {size:,}.")
    return value


def _entry(
    name: str, entry: Any, where: str, error: Callable[[str], EdgepeftError]
) -> tuple[type[np.generic], tuple[int, ...], int, int]:
    """Checks one tensor's row of the header."""
    if len(name) > limits.MAX_NAME_LENGTH or not _NAME.fullmatch(name) or ".." in name:
        raise error(f"{where}: {name[:80]!r} is no name for a tensor (letters, digits and . _ - / : only).")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise error(f"{where}: tensor {name!r} does not have exactly dtype, shape and data_offsets.")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise error(f"{where}: tensor {name!r} has dtype {entry['dtype']!r}; expected one of {', '.join(_DTYPES)}.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or len(shape) > limits.MAX_AXES or not _sizes(offsets) or len(offsets) != 2:
        raise error(f"{where}: tensor {name!r} has an impossible shape {str(shape)[:80]} or offsets.")
    size = math.prod(shape) * np.dtype(dtype).itemsize  # Python's integers do not wrap
    if 0 in shape and max(shape) > limits.MAX_ADAPTER_BYTES:
        raise error(f"{where}: tensor {name!r} has an impossible shape {shape}.")
    if offsets[1] - offsets[0] != size:
        raise error(f"{where}: tensor {name!r} of shape {shape} needs {size} bytes; offsets say {offsets}.")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(spans: list[tuple[int, int]], size: int, where: str, error: Callable[[str], EdgepeftError]) -> None:
    """Tensors must cover the data exactly: nothing shared, hidden or left over."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise error(f"{where}: tensors overlap or leave a hole at byte {min(begin, position)} of the data.")
        position = end
    if position != size:
        raise error(f"{where}: {size - position} bytes follow the last tensor. Copy the file again.")
