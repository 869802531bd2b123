"""What tests of the samples share: they are made once a run."""

from pathlib import Path

import pytest
import torch

from samples.digits import workstation as digits
from samples.raspberry_pi import workstation


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that goes to the board."""
    folder = tmp_path_factory.mktemp("sample")
    threads = torch.get_num_threads()
    try:
        digits.main(folder / "digits")
    finally:
        torch.set_num_threads(threads)  # the sample trains on one
    workstation.main(folder / "board", folder / "digits")
    return folder / "board"
