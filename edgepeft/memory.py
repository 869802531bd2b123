"""How much memory this process has taken."""

import resource

from edgepeft.limits import KiB


def peak_bytes() -> int:
    """Largest resident size of this process so far, in bytes; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KiB
