"""The machine that a run was made on, and the versions of what made it; nothing that names its owner."""

import platform
from importlib.metadata import version

from edgepeft import board, ort_package
from edgepeft.units import size_text

_PACKAGES = ("edgepeft", "numpy")


def machine() -> dict[str, str]:
    """Board and processor, cores, memory and operating system, by what they are called."""
    found = board.board(board.ROOT)
    usable, cores = found.usable_cores, found.physical_cores or found.usable_cores
    memory = {} if found.memory_bytes is None else {"memory": size_text(found.memory_bytes)}
    return {
        "processor": ", ".join(name for name in (found.model, found.processor) if name) or found.architecture,
        "architecture": found.architecture,
        "physical cores": f"{usable}" if usable == cores else f"{usable} of {cores}",
        **memory,
        "system": f"{_system()}, {platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, by name."""
    package = ort_package.installed()
    found = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found | {package.name: package.version}


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
