"""Turns inputs of an ONNX file into constants, without the onnx package: the rest stays byte for byte.

An ONNX file is a protocol buffer. Encoding: https://protobuf.dev/programming-guides/encoding; fields: onnx.proto3.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from edgepeft import names
from edgepeft.errors import BundleError
from edgepeft.tensors import Array

# Field numbers of onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_VALUE_NAME = 1
_TENSOR_DIMS = 1
_TENSOR_DATA_TYPE = 2
_TENSOR_NAME = 8
_TENSOR_RAW_DATA = 9
_TENSOR_EXTERNAL_DATA = 13
_ENTRY_KEY = 1
_ENTRY_VALUE = 2
#: `TensorProto.DataType.FLOAT`.
_FLOAT = 1

_VARINT = 0
_BYTES = 2
#: Bytes of a value, by wire type, where they are fixed.
_FIXED = {1: 8, 5: 4}

_MAX_VARINT_BYTES = 10
_MAX_FIELD_NUMBER = (1 << 29) - 1
#: Bytes of a protocol buffer that a reader takes at most.
_MAX_MESSAGE_BYTES = (1 << 31) - 1


class Field(NamedTuple):
    """One field of a message: its number and wire type, and where it lies, in bytes from the message's start.

    The tag begins at `begin`; the value, without its length, goes from `value` to `end`.
    """

    number: int
    wire_type: int
    begin: int
    value: int
    end: int


def fields(message: memoryview, where: str) -> Iterator[Field]:
    """The fields of a message, in order.

    Args:
        message: The message, without its length.
        where: The file, for messages of errors.

    Raises:
        BundleError: It is cut off, or no protocol buffer; groups, which ONNX does not use, are refused too.
    """
    position = 0
    while position < len(message):
        begin = position
        tag, position = _varint(message, position, where)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise _malformed(where, f"field number {number}", begin)
        if wire_type == _VARINT:
            value = position
            _, end = _varint(message, position, where)
        elif wire_type == _BYTES:
            size, value = _varint(message, position, where)
            end = value + size
        elif wire_type in _FIXED:
            value, end = position, position + _FIXED[wire_type]
        else:
            raise _malformed(where, f"wire type {wire_type}", begin)
        if end > len(message):
            raise _malformed(where, f"a field of {end - value:,} bytes that is cut off", begin)
        yield Field(number, wire_type, begin, value, end)
        position = end


def inputs_to_constants(model: bytes, tensors: Mapping[str, Array], where: str) -> bytes:
    """Gives inputs of a model's graph the values of tensors, as initializers.

    Args:
        model: An ONNX file, whose large weights lie in `base.safetensors`.
        tensors: float32 arrays by the names of the inputs that they replace.
        where: The file, for messages of errors.

    Returns:
        The file without those inputs; all that is not about them is as it was.

    Raises:
        BundleError: The file is malformed, lacks one of the inputs, or points to other files.
    """
    view = memoryview(model)
    graphs = [field for field in fields(view, where) if field.number == _MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0].wire_type != _BYTES:
        raise BundleError(f"{where}: expected an ONNX file with one graph, got {len(graphs)}. {_AGAIN}")
    (field,) = graphs
    graph = _changed_graph(view[field.value : field.end], tensors, where)
    content = b"".join([view[: field.begin], _encoded(_MODEL_GRAPH, graph), view[field.end :]])
    if len(content) > _MAX_MESSAGE_BYTES:
        raise BundleError(
            f"{where}: would grow to {len(content):,} bytes, an ONNX file has at most {_MAX_MESSAGE_BYTES:,}. "
            "Keep the adapter apart: export it as peft or onnx_adapter."
        )
    return content


def _changed_graph(graph: memoryview, tensors: Mapping[str, Array], where: str) -> bytes:
    kept: list[bytes | memoryview] = []
    taken: list[str] = []
    for field in fields(graph, where):
        content = graph[field.value : field.end]
        if field.number == _GRAPH_INPUT:
            name = _text(content, _VALUE_NAME, field, where)
            if name in tensors:
                taken.append(name)
                continue
        elif field.number == _GRAPH_INITIALIZER:
            _check_initializer(content, field, tensors, where)
        kept.append(graph[field.begin : field.end])
    if sorted(taken) != sorted(tensors):
        missing = next((name for name in tensors if taken.count(name) != 1), None)
        raise BundleError(f"{where}: expected the adapter tensor {missing!r} as an input, once. {_AGAIN}")
    added = [_encoded(_GRAPH_INITIALIZER, _tensor(name, value)) for name, value in tensors.items()]
    return b"".join([*kept, *added])


def _check_initializer(content: memoryview, field: Field, tensors: Mapping[str, Array], where: str) -> None:
    """No weight has an adapter tensor's name, or lies in a file that the new model would not have beside it."""
    name = _text(content, _TENSOR_NAME, field, where)
    if name in tensors:
        raise BundleError(f"{where}: the adapter tensor {name!r} is a constant already. {_AGAIN}")
    for entry in fields(content, where):
        if entry.number != _TENSOR_EXTERNAL_DATA:
            continue
        pair = content[entry.value : entry.end]
        location = _text(pair, _ENTRY_VALUE, entry, where)
        if _text(pair, _ENTRY_KEY, entry, where) == "location" and location != names.BASE:
            raise BundleError(
                f"{where}: the weight {name!r} lies in {location[:200]!r}, expected {names.BASE}. {_AGAIN}"
            )


def _text(message: memoryview, number: int, field: Field, where: str) -> str:
    """A text field of the message that `field` holds; the last one counts, as in every reader."""
    if field.wire_type != _BYTES:
        raise _malformed(where, f"field {field.number} of wire type {field.wire_type}", field.begin)
    text = ""
    for part in fields(message, where):
        if part.number == number:
            if part.wire_type != _BYTES:
                raise _malformed(where, "a name that is no text", field.begin + part.begin)
            try:
                text = str(message[part.value : part.end], "utf-8")
            except UnicodeDecodeError:
                raise _malformed(where, "a name that is no UTF-8", field.begin + part.begin) from None
    return text


def _tensor(name: str, value: Array) -> bytes:
    """A `TensorProto` of float32, little-endian."""
    sizes = b"".join(_encoded_varint(_TENSOR_DIMS, size) for size in value.shape)
    data = np.ascontiguousarray(value, dtype="<f4").tobytes()
    return b"".join(
        [
            sizes,
            _encoded_varint(_TENSOR_DATA_TYPE, _FLOAT),
            _encoded(_TENSOR_NAME, name.encode()),
            _encoded(_TENSOR_RAW_DATA, data),
        ]
    )


def _varint(message: memoryview, position: int, where: str) -> tuple[int, int]:
    """A whole number of at most 64 bits, and the position behind it."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if position + index >= len(message):
            raise _malformed(where, "a number that is cut off", position)
        byte = message[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                break
            return value, position + index + 1
    raise _malformed(where, "a number of more than 64 bits", position)


def _written(value: int) -> bytes:
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)


def _encoded(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return b"".join([_written(number << 3 | _BYTES), _written(len(content)), content])


def _encoded_varint(number: int, value: int) -> bytes:
    """A field of one whole number."""
    return _written(number << 3 | _VARINT) + _written(value)


_AGAIN = "Export the bundle again."


def _malformed(where: str, what: str, position: int) -> BundleError:
    return BundleError(f"{where}: expected an ONNX file, got {what} at byte {position}. {_AGAIN}")
