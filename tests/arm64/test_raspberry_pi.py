"""The sample of the Raspberry Pi on an emulated one: from what was installed there to a better score."""

import os
from pathlib import Path

import pytest
from pi_reader import ARM64_PYTHON, get_better

#: The folder that goes to the board; `make test-arm64` sets it.
BOARD = "EDGEPEFT_BOARD"


@pytest.mark.skipif(BOARD not in os.environ, reason=f"{BOARD} names no folder; make test-arm64 does")
def test_it_gets_better(tmp_path: Path) -> None:
    """Images are put in, misread ones are moved, it learns in the background, and reads held-out ones better."""
    python, board = os.environ[ARM64_PYTHON], Path(os.environ[BOARD])
    before, after = get_better(python, board, tmp_path / "reader")
    assert before < 50
    assert after > before + 5
