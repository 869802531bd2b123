"""How much memory this process has taken."""

import resource
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KiB if told is None else told


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


def keep(before: int) -> None:
    """Notes what a training has left, in a process that held so many bytes before it."""
    _kept.bytes += max(0, resident().now - before)


@dataclass
class _Kept:
    bytes: int = 0


#: By all trainings of this process.
_kept = _Kept()


def _told(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * KiB
    except OSError:
        pass
    return None
