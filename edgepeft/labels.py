"""Names of classes."""

from collections.abc import Sequence
from typing import Any

from edgepeft.limits import MAX_LABEL_LENGTH

#: Names that a message lists at most.
_TOLD = 20


def listed(labels: Sequence[str], otherwise: str) -> str:
    """The first few names, for a message; `otherwise` where there are none."""
    return ", ".join(labels[:_TOLD]) + ", ..." * (len(labels) > _TOLD) or otherwise


def fault(labels: Any) -> str | None:
    """What is wrong with the names of a model's classes: nothing about a list of different, printable texts."""
    if not isinstance(labels, list | tuple) or not labels:
        return f"expected a list of names, got {repr(labels)[:80]}"
    seen: set[str] = set()
    for label in labels:
        if not isinstance(label, str) or not label.strip() or not label.isprintable():
            return f"{repr(label)[:80]} is no name of a class; expected printable text"
        if len(label) > MAX_LABEL_LENGTH:
            return f"{label[:40]!r}... has {len(label)} characters; expected at most {MAX_LABEL_LENGTH}"
        if label in seen:
            return f"{label!r} stands there twice"
        seen.add(label)
    return None
