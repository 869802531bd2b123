"""Two processors, this machine's and an emulated aarch64: they compute the same, and one goes on where the other stopped."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reference_values import MAX_ERROR, relative_error
from safetensors.numpy import load_file

#: Python for aarch64; `make test-arm64` sets it.
PYTHON = "EDGEPEFT_ARM64_PYTHON"
PART = Path(__file__).parent / "part.py"
HERE, ARM64 = "here", "aarch64"
STEPS = 10

pytestmark = pytest.mark.skipif(
    PYTHON not in os.environ, reason=f"{PYTHON} names no Python; make test-arm64 does"
)

Part = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def part(bundles: Path, tmp_path: Path) -> Part:
    """Runs part.py on one of the processors."""

    def run(where: str, what: str, *arguments: object) -> dict[str, np.ndarray]:
        python = os.environ[PYTHON] if where == ARM64 else sys.executable
        dropped = "PYTHONPATH" if where == ARM64 else ""  # there edgepeft is what is installed
        environment = {name: value for name, value in os.environ.items() if name != dropped}
        output = tmp_path / f"{where}.safetensors"
        command = [python, PART, what, bundles, output, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == (ARM64 if where == ARM64 else platform.machine())
        return load_file(output)

    return run


def assert_close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Each array within 1e-5 of its largest value."""
    assert got.keys() == expected.keys()
    errors = {name: relative_error(got[name], value) for name, value in expected.items()}
    assert max(errors.values()) <= MAX_ERROR, sorted(errors.items(), key=lambda item: -item[1])[:3]


def test_both_compute_the_same(part: Part) -> None:
    """Losses, gradients and scores of three models."""
    assert_close(part(ARM64, "compute"), part(HERE, "compute"))


@pytest.mark.parametrize(("first", "second"), [(HERE, ARM64), (ARM64, HERE)])
def test_a_checkpoint_goes_on_elsewhere(part: Part, tmp_path: Path, first: str, second: str) -> None:
    """Five steps on one, five on the other: the adapter and the losses of ten steps that nothing disturbed."""
    half = STEPS // 2
    begun = part(first, "train", tmp_path / "run", half)
    ended = part(second, "train", tmp_path / "run", STEPS)
    whole = part(HERE, "train", tmp_path / "undisturbed", STEPS)
    made = [arrays.pop("made").tolist() for arrays in (begun, ended, whole)]
    assert made == [[*range(1, half + 1)], [*range(half + 1, STEPS + 1)], [*range(1, STEPS + 1)]]
    assert_close(ended, whole)
