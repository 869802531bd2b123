"""The program `bin/python` of the environment: Python for aarch64, in a container or under QEMU's user mode.

Either reads the environment variable QEMU_CPU, which names the processor. It is Python's `sys.executable` too, so that
a program started from within is emulated as well.
"""

import shlex
import subprocess
from pathlib import Path

DEFAULT_CPU = "cortex-a72"
IMAGE = "python:3.11-slim-bookworm"
SITE_PACKAGES = "lib/python3.11/site-packages"
#: Environment variables that reach a program in a container; under QEMU all do.
PASSED = (
    "EDGEPEFT_TEST_BUNDLES",
    "ORT_DISABLE_TELEMETRY",
    "PYTHONSAFEPATH",
    "PYTHONDONTWRITEBYTECODE",
    "TMPDIR",
)
#: Time for Docker to fetch the image and start, in seconds.
_PATIENCE = 600


def qemu(folder: Path) -> str:
    """A shell program that runs Python under `folder/qemu-aarch64`."""
    place = shlex.quote(str(folder))
    return f"""#!/bin/sh
export QEMU_CPU="${{QEMU_CPU:-{DEFAULT_CPU}}}"
exec {place}/qemu-aarch64 -L {place}/root -0 {place}/bin/python {place}/root/usr/bin/python3.11 "$@"
"""


def container(folder: Path, repository: Path) -> str:
    """A shell program that runs Python in a container, which sees the repository and the temporary files in their places."""
    passed = " ".join(f"--env {name}" for name in PASSED)
    site, mounted = shlex.quote(str(folder / SITE_PACKAGES)), shlex.quote(f"{repository}:{repository}")
    return f"""#!/bin/sh
temporary="${{TMPDIR:-/tmp}}"
exec docker run --rm --interactive --init --platform linux/arm64 --user "$(id -u):$(id -g)" --volume {mounted} \\
  --volume "$temporary:$temporary" --volume {place(folder)} --workdir "$PWD" {passed} \\
  --env QEMU_CPU="${{QEMU_CPU:-{DEFAULT_CPU}}}" --env PYTHONPATH={site}"${{PYTHONPATH:+:$PYTHONPATH}}" {IMAGE} python "$@"
"""


def place(folder: Path) -> str:
    """A folder for Docker's --volume, at the same place inside."""
    return shlex.quote(f"{folder}:{folder}")


def write(folder: Path, program: str) -> Path:
    """Writes it as the environment's Python."""
    path = folder / "bin/python"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(program)
    path.chmod(0o755)
    return path


def container_works(folder: Path, repository: Path) -> bool:
    """Whether Docker is there, emulates arm64, and imports onnxruntime (not all releases of QEMU do)."""
    test = "import platform, onnxruntime; print(platform.machine())"
    command = ["/bin/sh", "-c", container(folder, repository), "python", "-c", test]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.strip() == "aarch64"
