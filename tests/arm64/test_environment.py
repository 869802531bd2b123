"""The environment of tools/arm64 is what it says: another processor, and edgepeft as users install it."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import edgepeft

pytestmark = pytest.mark.skipif(
    "QEMU_CPU" not in os.environ or platform.machine() != "aarch64",
    reason="needs the environment of make test-arm64",
)

#: getauxval's name of the processor's features, and the bits of what both boards and what only one of them has.
AT_HWCAP, ASIMD, DOT_PRODUCT = 16, 1 << 1, 1 << 20


def test_the_processor_is_the_one_asked_for() -> None:
    """A Raspberry Pi 5 has products of eight-bit numbers, a Raspberry Pi 4 has not."""
    features = ctypes.CDLL(None).getauxval(AT_HWCAP)
    assert features & ASIMD
    assert bool(features & DOT_PRODUCT) == (os.environ["QEMU_CPU"] == "cortex-a76")


def test_edgepeft_is_the_installed_wheel() -> None:
    """Not the source tree."""
    assert Path(edgepeft.__file__).parents[1].name == "site-packages"


def test_a_program_that_is_started_is_emulated_too() -> None:
    """On the same processor."""
    program = "import os, platform; print(platform.machine(), os.environ['QEMU_CPU'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["aarch64", os.environ["QEMU_CPU"]]
