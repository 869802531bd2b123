"""The messages of errors, as they stand in the sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import edgepeft.errors

ROOT = Path(__file__).parents[1]

#: Where a message has a value.
HOLE = "…"

#: What makes an error: a class of the tree, click's own for wrong use, or a parameter that is one of them.
_MAKERS = {name for name in vars(edgepeft.errors) if name.endswith("Error")} | {
    "ExportError",
    "UsageError",
    "error",
    "fail",
}


class Message(NamedTuple):
    """A message and the line that it is made at."""

    where: str
    text: str


def messages() -> list[Message]:
    """Every message that the two packages put into an error of ours."""
    paths = sorted([*(ROOT / "edgepeft").rglob("*.py"), *(ROOT / "export").rglob("*.py")])
    return [message for path in paths for message in _of_file(path)]


def _of_file(path: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and _name(node.func) in _MAKERS:
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            text = " ".join(_text(node.args[-1]).split())
            yield Message(where, re.sub(f"{HOLE}+", HOLE, text))


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _text(node: ast.expr) -> str:
    """What a message says, with a hole for each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return HOLE
