"""Reading and writing safetensors. What is refused is in tests/attacks/test_adapter_files.py."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from foreign_files import row, safetensors_file
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from edgepeft import tensors
from edgepeft.errors import BundleError

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def _examples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    examples = {dtype: random.integers(0, 2, (3, 5)).astype(dtype) for dtype in DTYPES}
    return examples | {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "transposed": random.standard_normal((2, 3)).astype(np.float32).T,
        "special": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
    }


@pytest.mark.parametrize("parse", [tensors.parse, tensors.parse_checked])
def test_what_is_written_is_read_bit_for_bit(parse: Callable[..., Any]) -> None:
    """Every dtype, scalars, empty and transposed arrays, NaN and signed zero, through both readers."""
    metadata = {"format": "pt", "greeting": "grüß \N{WAVING HAND SIGN} \\u"}
    arrays, read = parse(memoryview(tensors.serialize(_examples(), metadata)), "file", BundleError)
    assert read == metadata
    assert arrays.keys() == _examples().keys()
    for name, value in _examples().items():
        assert (arrays[name].dtype, arrays[name].shape) == (value.dtype, value.shape)
        assert arrays[name].tobytes() == value.tobytes()
        assert not arrays[name].flags.writeable


def test_the_library_writes_the_same_file() -> None:
    """Same order, padding and bytes as safetensors itself, for tensors of one dtype, as adapters are."""
    floats = {
        name: np.asarray(value, order="C") for name, value in _examples().items() if value.dtype == np.float32
    }
    assert tensors.serialize(floats, {"format": "pt"}) == save(floats, {"format": "pt"})
    assert tensors.serialize(floats, {}) == save(floats)


def test_the_same_tensors_give_the_same_bytes() -> None:
    """Whatever the order in which they come, so that files can be compared by their hash."""
    examples, metadata = _examples(), {str(number): "" for number in range(20)}
    backwards = dict(reversed(examples.items())), dict(reversed(metadata.items()))
    assert tensors.serialize(examples, metadata) == tensors.serialize(*backwards)


def test_big_endian_arrays_are_turned() -> None:
    """The format is little-endian, whatever the array in memory is."""
    content = tensors.serialize({"a": np.array([1, 2], ">i4")}, {})
    np.testing.assert_array_equal(load(content)["a"], [1, 2])


def test_views_share_the_file_s_memory() -> None:
    """`parse` copies nothing: a change of the buffer shows in the tensor."""
    buffer = bytearray(tensors.serialize({"a": np.zeros(3, np.float32)}, {}))
    arrays, _ = tensors.parse(memoryview(buffer).toreadonly(), "file", BundleError)
    buffer[-4:] = np.float32(7).tobytes()
    np.testing.assert_array_equal(arrays["a"], [0, 0, 7])


def test_checked_tensors_are_apart_from_the_file_s_memory() -> None:
    """`parse_checked` lets go of the file: who still writes to its buffer changes no adapter."""
    buffer = bytearray(tensors.serialize({"a": np.zeros(3, np.float32)}, {}))
    arrays, _ = tensors.parse_checked(memoryview(buffer), "file", BundleError)
    buffer[-4:] = np.float32(7).tobytes()
    np.testing.assert_array_equal(arrays["a"], [0, 0, 0])


def test_checked_tensors_keep_the_file_s_order() -> None:
    """The library has another in each process."""
    written = {f"{letter}.weight": np.zeros(2, np.float32) for letter in "abcdefghijklmnopqrstuvwxyz"}
    read, _ = tensors.parse_checked(memoryview(tensors.serialize(written, {})), "file", BundleError)
    assert list(read) == list(written)


def test_a_header_says_where_tensors_lie() -> None:
    """Offsets count from the file's start, as ONNX's external data wants them."""
    content = tensors.serialize(_examples(), {"format": "pt"})
    header = tensors.parse_header(memoryview(content), "file", BundleError)
    assert header.metadata == {"format": "pt"}
    for name, value in _examples().items():
        entry = header.entries[name]
        assert content[entry.begin : entry.end] == value.tobytes()
        assert (entry.dtype, entry.shape) == (value.dtype, value.shape)


def test_a_reader_that_sees_something_else_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library ever disagrees with the check in front of it, neither is believed."""
    content = memoryview(safetensors_file({"a": row([1], 0, 4)}, b"\0" * 4))
    monkeypatch.setattr(tensors, "load", lambda _: {"a": np.zeros(2, np.float16)})
    with pytest.raises(BundleError, match="file: two readers see different tensors"):
        tensors.parse_checked(content, "file", BundleError)


def test_the_error_is_the_caller_s_and_says_where() -> None:
    """Bundles, adapters and checkpoints share this code, and each keeps its own error."""
    with pytest.raises(BundleError, match=r"^weights: expected a safetensors file, got 0 bytes"):
        tensors.parse(memoryview(b""), "weights", BundleError)


def test_padding_after_the_header_is_allowed() -> None:
    """The format lets writers fill the header up with spaces; the library does."""
    text = json.dumps({"a": row([1], 0, 4)}) + " " * 13
    arrays, _ = tensors.parse_checked(memoryview(safetensors_file(text, b"\0" * 4)), "file", BundleError)
    assert arrays["a"].shape == (1,)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]{0,20}", fullmatch=True).filter(
            lambda name: ".." not in name
        ),
        hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
        max_size=5,
    )
)
def test_any_tensors_come_back(arrays: dict[str, np.ndarray]) -> None:
    """Any names and shapes that are allowed, through the library too."""
    again, _ = tensors.parse_checked(memoryview(tensors.serialize(arrays, {})), "file", BundleError)
    assert again.keys() == arrays.keys()
    for name, value in arrays.items():
        assert (again[name].dtype, again[name].shape) == (value.dtype, value.shape)
        assert again[name].tobytes() == value.tobytes()
