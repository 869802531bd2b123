"""JSON from elsewhere, read so that two readers cannot see two things in it (RFC 8259, and no leniency)."""

import json
import math
from collections.abc import Callable
from typing import Any

from edgepeft.errors import EdgepeftError


def decode(content: bytes | memoryview, where: str, error: Callable[[str], EdgepeftError]) -> dict[str, Any]:
    """Reads a JSON object; a key that stands twice, NaN, infinity and half a surrogate pair are refused.

    Args:
        content: UTF-8 text without a byte-order mark.
        where: Its name, for messages.
        error: The error to raise.

    Raises:
        EdgepeftError: Of the given type: not UTF-8, not strict JSON, nested too deeply, or not an object.
    """
    try:
        text = bytes(content).decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as cause:
        raise error(
            f"{where}: expected JSON, got brackets nested too deeply. Copy the file again."
        ) from cause
    except UnicodeEncodeError as cause:
        raise error(f"{where}: expected text, got half a surrogate pair. Copy the file again.") from cause
    except UnicodeDecodeError as cause:
        raise error(
            f"{where}: expected UTF-8 text, got other bytes at {cause.start}. Copy it again."
        ) from cause
    except ValueError as cause:
        raise error(f"{where}: expected JSON: {cause}. Copy the file again.") from cause
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, got a {type(value).__name__}.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key[:80]!r} stands there twice")
        result[key] = value
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
