"""The machine that a run was made on, and the versions of what made it; nothing that names its owner."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from edgepeft import ort_package
from edgepeft.units import size_text

_CPU_INFO = Path("/proc/cpuinfo")

#: Lines of /proc/cpuinfo that name the processor or the board: x86 has the first, ARM boards often the others.
_CPU_KEYS = ("model name", "Model", "Hardware")

_PACKAGES = ("edgepeft", "numpy")


def machine() -> dict[str, str]:
    """Processor, cores, memory and operating system, by what they are called."""
    usable, cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    return {
        "processor": cpu_model(_text(_CPU_INFO)) or platform.machine(),
        "architecture": platform.machine(),
        "cores": f"{usable}" if usable == cores else f"{usable} of {cores}",
        "memory": size_text(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        "system": f"{_system()}, {platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, by name."""
    package = ort_package.installed()
    found = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found | {package.name: package.version}


def cpu_model(cpu_info: str) -> str | None:
    """The processor's name by the content of /proc/cpuinfo, if that says it."""
    lines = [line.partition(":") for line in cpu_info.splitlines()]
    found = {key.strip(): value.strip() for key, _, value in lines}
    return next((found[key] for key in _CPU_KEYS if found.get(key)), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
