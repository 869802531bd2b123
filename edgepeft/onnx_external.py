"""Refuses an ONNX file that would have ONNX Runtime open other files, without the onnx package.

ONNX Runtime 1.19.2, loading a model from a path, follows external data through `..`, absolute paths and links.
Fields: onnx.proto3.
"""

from edgepeft.errors import BundleError
from edgepeft.onnx_file import fields

#: Messages of a message, by the numbers of the fields that hold them: every way from a model to a tensor.
_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
#: Fields of a tensor that lead to a file: `external_data` and `data_location`.
_EXTERNAL = (13, 14)
#: Graphs inside of nodes inside of graphs, at most.
_MAX_DEPTH = 64


def check_self_contained(model: bytes, where: str) -> None:
    """Sees to it that no tensor of a model lies in another file.

    Args:
        model: An ONNX file.
        where: Its name, for messages of errors.

    Raises:
        BundleError: One does, or the file is malformed.
    """
    whole = memoryview(model)
    open_messages = [("model", whole, fields(whole, where))]  # those around the field that is looked at
    while open_messages:
        kind, message, rest = open_messages[-1]
        field = next(rest, None)
        if field is None:
            open_messages.pop()
            continue
        if kind == "tensor" and field.number in _EXTERNAL:
            raise BundleError(
                f"{where}: a tensor of it lies in another file, expected none. Do not use this bundle."
            )
        inner = _MESSAGES[kind].get(field.number)
        if inner is None:
            continue
        if len(open_messages) > _MAX_DEPTH:
            raise BundleError(f"{where}: its graphs are nested too deeply. Do not use this bundle.")
        content = message[field.value : field.end]
        open_messages.append((inner, content, fields(content, where)))
