"""How much memory this process has taken."""

import platform
import resource
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgepeft.limits import KiB

_STATUS = Path("/proc/self/status")
_PEAK = "VmHWM:"
_RESIDENT = "VmRSS:"


def peak_bytes() -> int:
    """Largest resident size of this process so far, in bytes.

    `getrusage` serves where there is no /proc: it also counts what the parent held when it started this process.
    """
    told = _told(_PEAK)
    unit = 1 if platform.system() == "Darwin" else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if told is None else told


class Resident(NamedTuple):
    """What this process holds, in bytes; 0 where there is no /proc.

    Attributes:
        now: Its resident size.
        kept: How much of it trainings have left: ONNX Runtime keeps its buffers for the next.
    """

    now: int
    kept: int


def resident() -> Resident:
    """What this process holds."""
    now = _told(_RESIDENT) or 0
    return Resident(now, min(_kept.bytes, now))


def keep(before: int, most: int) -> None:
    """Notes what a training has left.

    Args:
        before: What the process held before it, in bytes.
        most: What ONNX Runtime may have kept.
    """
    with _LOCK:
        _kept.bytes = max(_kept.bytes, min(resident().now - before, most))


@dataclass
class _Kept:
    bytes: int = 0


#: By the largest training of this process: buffers are used again.
_kept = _Kept()
_LOCK = threading.Lock()


def _told(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * KiB
    except OSError:
        pass
    return None
