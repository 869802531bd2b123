"""What a report says of the machine."""

import os
import platform
from pathlib import Path

import pytest
from fake_machine import PI_4, write

from edgepeft.report.machine import machine


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that tells nothing yet."""
    monkeypatch.setattr("edgepeft.board.ROOT", tmp_path)
    return tmp_path


def test_a_raspberry_pi(root: Path) -> None:
    """Board and processor, and its cores: no hyperthreads, and those that the process may use."""
    files: dict[str, object] = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": cpu for cpu in range(4)
    }
    share = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"}
    write(root, files | share | {"proc/cpuinfo": PI_4, "proc/meminfo": "MemTotal:  3884360 kB"})
    found = machine()
    assert found["processor"] == "Raspberry Pi 4 Model B Rev 1.4, Cortex-A72"
    assert found["physical cores"] == "1 of 4"
    assert found["memory"] == "3,978 MB"


def test_a_system_that_tells_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, which knows of no processors that a process is bound to either."""
    del root
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = machine()
    assert found["processor"] == found["architecture"] == platform.machine()
    assert found["physical cores"] == "8"
    assert "memory" not in found
