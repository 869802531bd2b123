"""Peak memory."""

import subprocess
import sys

import numpy as np

PROGRAM = """
from edgepeft import memory
before = memory.peak_bytes()
block = bytearray(64 << 20)
print(before, memory.peak_bytes())
"""


def test_peak_is_that_of_this_process_alone() -> None:
    """A child that takes 64 MiB says so, and says nothing of the 512 MiB that its parent held."""
    held = np.ones(64 << 20)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < held.nbytes / 2
    assert 60 << 20 < after - before < 80 << 20
