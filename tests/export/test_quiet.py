"""What the exporter's programs keep from a user's pipe."""

import subprocess
import sys

PROGRAM = """
from tqdm.auto import tqdm
from transformers.utils.logging import tqdm as of_transformers
from edgepeft_export.cli import quiet_libraries

quiet_libraries()
for bar in (tqdm, of_transformers):
    print(list(bar(range(3), desc="Converting")))
"""


def test_other_libraries_draw_no_bars() -> None:
    """Also where they were imported before: a bar is control characters in a log."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n[0, 1, 2]\n", "")
