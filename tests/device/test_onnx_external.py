"""A model that would have ONNX Runtime open other files is refused, wherever its tensor stands."""

import pytest
from protobuf import field

from edgepeft.errors import BundleError
from edgepeft.onnx_external import check_self_contained


def inside(content: bytes, *numbers: int) -> bytes:
    """A message in a field of a message, the last number innermost."""
    for number in reversed(numbers):
        content = field(number, content)
    return content


TENSOR = field(8, b"weight")
LOCATION = field(13, field(1, b"location") + field(2, b"../secret"))
EXTERNAL = bytes([14 << 3, 1])

#: Ways from a model to a tensor, as numbers of fields.
PLACES = {
    "an initializer": (7, 5),
    "a sparse initializer's values": (7, 15, 1),
    "a sparse initializer's indices": (7, 15, 2),
    "a constant": (7, 1, 5, 5),
    "a list of constants": (7, 1, 5, 10),
    "a branch": (7, 1, 5, 6, 5),
    "one of several graphs": (7, 1, 5, 11, 5),
    "a branch in a branch": (7, 1, 5, 6, 1, 5, 6, 5),
    "a sparse constant": (7, 1, 5, 22, 1),
    "a function": (25, 7, 5, 5),
    "a function's default": (25, 11, 5),
    "training": (20, 2, 5),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mark", [LOCATION, EXTERNAL], ids=["path", "flag"])
def test_a_tensor_in_another_file(place: str, mark: bytes) -> None:
    """With a path to it, or only marked as such."""
    check_self_contained(inside(TENSOR, *PLACES[place]), "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: a tensor of it lies in another file"):
        check_self_contained(inside(TENSOR + mark, *PLACES[place]), "model.onnx")


def test_no_model() -> None:
    """Bytes that are no protocol buffer are told as such."""
    with pytest.raises(BundleError, match="expected an ONNX file"):
        check_self_contained(b"\xff" * 20, "model.onnx")


def test_graphs_in_graphs_without_end() -> None:
    """Depth is bounded, as the work is."""
    content = b""
    for _ in range(30):
        content = field(7 if _ == 29 else 6, field(1, field(5, content)))
    with pytest.raises(BundleError, match="nested too deeply"):
        check_self_contained(content, "model.onnx")
