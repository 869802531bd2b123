"""How much memory this process has taken."""

import functools
import resource
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
    """Resident sizes of this process in bytes, 0 where there is no /proc.

    Attributes:
        now: As it is.
        before_computing: As it was before ONNX Runtime first computed, which keeps its buffers for what comes next.
    """

    now: int
    before_computing: int


def resident() -> Resident:
    """What this process holds."""
    return Resident(_told(_RESIDENT) or 0, before_computing())


@functools.cache
def before_computing() -> int:
    """Resident size of this process in bytes, when this was first asked: to be asked before it first computes."""
    return _told(_RESIDENT) or 0


def _told(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * KiB
    except OSError:
        pass
    return None
