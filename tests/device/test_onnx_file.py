"""The wire format of an ONNX file: walked within its bounds, changed in one place, refused where it is broken."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protobuf import field, varint

import edgepeft
from edgepeft import names
from edgepeft.errors import BundleError
from edgepeft.onnx_file import fields, inputs_to_constants

ONE = {"a": np.array([1.0, -0.0], dtype=np.float32)}

varints = st.integers(0, 2**64 - 1)
numbers = st.integers(1, 2**29 - 1)


def model(*parts: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """An ONNX file with a graph of those parts."""
    return before + field(7, b"".join(parts)) + after


def named(number: int, name: str, name_field: int = 1) -> bytes:
    """A field of the graph with a name inside."""
    return field(number, field(name_field, name.encode()))


INPUT_A, INPUT_X = named(11, "a"), named(11, "x")


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """A message, and its fields as number, wire type and value."""
    content, expected = b"", []
    for _ in range(draw(st.integers(0, 6))):
        number, wire_type = draw(numbers), draw(st.sampled_from([0, 1, 2, 5]))
        if wire_type == 0:
            value = varint(draw(varints))
            written = value
        else:
            size = {1: 8, 5: 4}.get(wire_type)
            value = draw(st.binary(min_size=size or 0, max_size=size or 300))
            written = value if size else varint(len(value)) + value
        content += varint(number << 3 | wire_type) + written
        expected.append((number, wire_type, value))
    return content, expected


def walked(content: bytes) -> list[tuple[int, int, bytes]]:
    return [
        (field.number, field.wire_type, content[field.value : field.end])
        for field in fields(memoryview(content), "file")
    ]


@given(messages())
def test_every_field_is_found_where_it_lies(message: tuple[bytes, list]) -> None:
    """All wire types that ONNX uses, in any order; the fields cover the message without a gap."""
    content, expected = message
    assert walked(content) == expected
    found = list(fields(memoryview(content), "file"))
    assert [field.begin for field in found] == [0, *(field.end for field in found)][: len(found)]
    assert not found or found[-1].end == len(content)


@given(messages(), st.data())
def test_a_message_that_is_cut_off(message: tuple[bytes, list], data: st.DataObject) -> None:
    """Between two fields the first of them are there; anywhere else it is refused."""
    content, expected = message
    ends = [0, *(field.end for field in fields(memoryview(content), "file"))]
    cut = data.draw(st.integers(0, len(content)))
    if cut in ends:
        assert walked(content[:cut]) == expected[: ends.index(cut)]
    else:
        with pytest.raises(BundleError, match=r"file: expected an ONNX file, got .* at byte"):
            walked(content[:cut])


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    """Are fields within bounds, or refused; nothing else happens."""
    try:
        found = list(fields(memoryview(content), "file"))
    except BundleError:
        return
    assert all(0 <= field.begin < field.value <= field.end <= len(content) for field in found)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_model(content: bytes) -> None:
    """Without the input there is nothing to change: always refused, with one line."""
    for file in (content, model(content)):
        with pytest.raises(BundleError) as caught:
            inputs_to_constants(file, {"no such input, ever": ONE["a"]}, "file")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80", "a number that is cut off at byte 0"),
        (b"\x80" * 10 + b"\x01", "a number of more than 64 bits at byte 0"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a number of more than 64 bits at byte 1"),
        (b"\x00\x00", "field number 0"),
        (varint((2**29) << 3) + b"\x00", "field number 536870912"),
        (b"\x0b", "wire type 3"),
        (b"\x0c", "wire type 4"),
        (b"\x0e", "wire type 6"),
        (b"\x0f", "wire type 7"),
        (b"\x0a\x05abcd", "a field of 5 bytes that is cut off at byte 0"),
        (b"\x0a" + varint(2**64 - 1), "18,446,744,073,709,551,615 bytes that is cut off"),
        (b"\x09" + b"\x00" * 7, "a field of 8 bytes that is cut off"),
        (b"\x0d" + b"\x00" * 3, "a field of 4 bytes that is cut off"),
    ],
)
def test_hostile_encodings(content: bytes, words: str) -> None:
    """Each is refused for its own reason, with the byte."""
    with pytest.raises(BundleError, match=words):
        walked(content)


def test_the_longest_number_is_read() -> None:
    """Ten bytes hold 64 bits."""
    assert walked(b"\x08" + varint(2**64 - 1)) == [(1, 0, varint(2**64 - 1))]


def test_an_input_becomes_a_constant_and_the_rest_stays() -> None:
    """Byte for byte: unknown fields, their order, what stands before and after the graph."""
    node, output = field(1, b"node"), named(12, "y")
    odd = varint(99 << 3 | 5) + b"odd!"
    head, tail = varint(1 << 3) + varint(10), field(8, b"opset")
    file = model(node, INPUT_X, odd, INPUT_A, output, before=head, after=tail)
    tensor = (
        varint(1 << 3) + varint(2)  # dims
        + varint(2 << 3) + varint(1)  # float32
        + field(8, b"a")
        + field(9, b"\x00\x00\x80\x3f\x00\x00\x00\x80")  # 1.0, -0.0
    )  # fmt: skip
    expected = model(node, INPUT_X, odd, output, field(5, tensor), before=head, after=tail)
    assert inputs_to_constants(file, ONE, "file") == expected


def test_a_number_by_itself_has_no_sizes() -> None:
    """A tensor without axes, and one that lies in another order in memory."""
    scalar = inputs_to_constants(model(INPUT_A), {"a": np.array(2.0, np.float32)}, "file")
    assert scalar.endswith(field(8, b"a") + field(9, b"\x00\x00\x00\x40"))
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    turned = inputs_to_constants(model(INPUT_A), {"a": value.T}, "file")
    assert turned.endswith(field(9, np.ascontiguousarray(value.T).tobytes()))


def external(location: str, name: str = "w") -> bytes:
    """A weight that lies in another file."""
    entry = field(1, b"location") + field(2, location.encode())
    return field(5, field(8, name.encode()) + field(13, entry))


def test_weights_beside_the_model_stay() -> None:
    """In base.safetensors, which is copied along."""
    part = external(names.BASE)
    assert part in inputs_to_constants(model(part, INPUT_A), ONE, "file")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "one graph, got 0"),
        (model(INPUT_A) + model(INPUT_A), "one graph, got 2"),
        (varint(7 << 3) + b"\x01", "one graph"),
        (model(INPUT_X), "'a' as an input, once"),
        (model(INPUT_A, INPUT_A), "'a' as an input, once"),
        (model(INPUT_A, field(5, field(8, b"a"))), "'a' is a constant already"),
        (model(external("/etc/passwd"), INPUT_A), "'w' lies in '/etc/passwd'"),
        (model(external("../base.safetensors"), INPUT_A), "expected base.safetensors"),
        (model(field(11, varint(1 << 3) + b"\x05"), INPUT_A), "a name that is no text"),
        (model(field(11, field(1, b"\xff")), INPUT_A), "a name that is no UTF-8"),
        (model(varint(11 << 3) + b"\x05", INPUT_A), "field 11 of wire type 0"),
        (model(varint(5 << 3) + b"\x05", INPUT_A), "field 5 of wire type 0"),
        (model(INPUT_A)[:-1], "cut off"),
    ],
)
def test_models_that_are_refused(file: bytes, words: str) -> None:
    """No graph, two, an input that is not there or twice, a weight of that name or from elsewhere."""
    with pytest.raises(BundleError, match=words) as caught:
        inputs_to_constants(file, ONE, "file")
    assert "Export the bundle again" in str(caught.value)


def test_the_last_of_two_names_counts() -> None:
    """As in every reader of protocol buffers: no other program sees another input."""
    twice = field(11, field(1, b"x") + field(1, b"a"))
    assert twice not in inputs_to_constants(model(twice), ONE, "file")


def test_too_large_for_a_protocol_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's limit is told, with the way round it."""
    monkeypatch.setattr("edgepeft.onnx_file._MAX_MESSAGE_BYTES", 20)
    with pytest.raises(BundleError, match=r"at most 20.*onnx_adapter"):
        inputs_to_constants(model(INPUT_A), ONE, "file")


@given(st.data())
def test_real_graphs_cut_anywhere(handmade: Path, data: st.DataObject) -> None:
    """Each prefix of a real file is refused."""
    bundle = edgepeft.Bundle.open(handmade / "chat")
    graph = bundle.graph(names.INFER)
    tensors = bundle.initial_adapter().tensors
    inputs_to_constants(graph, tensors, "file")
    cut = data.draw(st.integers(0, graph.rindex(b"logits") - 1))
    with pytest.raises(BundleError):
        inputs_to_constants(graph[:cut], tensors, "file")
