"""How much memory this process has taken."""

import resource
from pathlib import Path

from edgepeft.limits import KiB

_STATUS = Path("/proc/self/status")
_PEAK = "VmHWM:"


def peak_bytes() -> int:
    """Largest resident size of this process so far, in bytes.

    `getrusage` serves where there is no /proc: it also counts what the parent held when it started this process.
    """
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(_PEAK):
                return int(line.split()[1]) * KiB
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KiB
