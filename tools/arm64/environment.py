"""Makes an environment for aarch64 on an x86-64 machine: CPython 3.11, the device's packages, and edgepeft's wheel.

FOLDER/bin/python is its Python: in a container where Docker runs linux/arm64, else under QEMU's user mode, from Debian's
packages. QEMU_CPU names the processor: cortex-a72 is a Raspberry Pi 4, cortex-a76 a Raspberry Pi 5.
What has not changed since the last time is kept.

Usage: python tools/arm64/environment.py [FOLDER] [--clean]
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import debian
import launcher

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "build/arm64"
#: The extras of a device, and the packages of the extra dev that its tests take.
EXTRAS = ("onnxruntime", "text", "images")
TEST_PACKAGES = ("hypothesis", "pytest")
#: glibc 2.36 is that of Debian 12; wheels for older ones run too. pip wants each by name.
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))
#: Variables with which edgepeft is what is installed, not a source tree.
INSTALLED = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
#: What is made, in this file of the folder.
_MADE = "made.json"
_CHECK = """
import platform, sys, edgepeft, onnxruntime
if not edgepeft.__file__.startswith(sys.argv[1]):
    sys.exit(f"edgepeft comes from {edgepeft.__file__}; expected from {sys.argv[1]}")
print(f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}")
"""


def requirements() -> list[str]:
    """What the device's tests take, as pyproject.toml has it."""
    project = _project()["project"]
    table: dict[str, list[str]] = project["optional-dependencies"]
    base: list[str] = project["dependencies"]
    tests = [one for one in table["dev"] if re.split(r"[^\w-]", one)[0] in TEST_PACKAGES]
    return sorted([*base, *(one for extra in EXTRAS for one in table[extra]), *tests])


def digest(parts: Iterable[str | Path]) -> str:
    """A hash of texts and of files' contents."""
    found = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        found.update(len(content).to_bytes(8, "big") + content)
    return found.hexdigest()


def sources() -> list[Path]:
    """What the wheel is built from, as pyproject.toml has it."""
    project = _project()
    packages: list[str] = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    names = [*packages, "pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
    files = [
        path
        for name in names
        for path in [REPOSITORY / name, *(REPOSITORY / name).rglob("*")]
        if path.is_file()
    ]
    return sorted(path for path in files if "__pycache__" not in path.parts)


def _project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


class Environment:
    """A folder with an environment, of which each part is made anew when what it is made from has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.python = self.folder / "bin/python"
        self.site = self.folder / launcher.SITE_PACKAGES
        self._made = self.folder / _MADE

    def make(self, *, clean: bool = False) -> None:
        """Makes what is not there yet, or everything anew.

        Raises:
            SystemExit: The folder holds something else, or a part could not be made.
        """
        if self.folder.exists() and not self._is_ours():
            raise SystemExit(
                f"{self.folder}: is something else, which this would change. Give a folder that is new or empty."
            )
        if clean and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = requirements()
        tools = [Path(__file__).with_name(name) for name in ("debian.py", "launcher.py")]
        self._part("packages", digest(wanted), lambda: self._install_packages(wanted))
        kind = "container" if launcher.container_works(self.folder, REPOSITORY) else "qemu"
        self._part("python", digest([str(self.folder), kind, *tools]), lambda: self._make_python(kind))
        self._part("edgepeft", digest([*sources(), *wanted]), self._install_edgepeft)

    def _is_ours(self) -> bool:
        return self.folder.is_dir() and (self._made.is_file() or not any(self.folder.iterdir()))

    def _part(self, name: str, key: str, make: Callable[[], None]) -> None:
        """Makes a part unless it was made from the same."""
        made = json.loads(self._made.read_text()) if self._made.exists() else {}
        if made.get(name) == key:
            return
        print(f"== arm64: {name}", flush=True)
        self._made.write_text(json.dumps({other: value for other, value in made.items() if other != name}))
        make()
        self._made.write_text(json.dumps(made | {name: key}))

    def _install_packages(self, wanted: list[str]) -> None:
        shutil.rmtree(self.site, ignore_errors=True)
        self._pip(*wanted)

    def _make_python(self, kind: str) -> None:
        if kind == "container":
            launcher.write(self.folder, launcher.container(self.folder, REPOSITORY))
            return
        debian.unpack(self.folder)
        (self.folder / "pyvenv.cfg").write_text(f"home = {self.folder / 'root/usr/bin'}\n")
        launcher.write(self.folder, launcher.qemu(self.folder))

    def _install_edgepeft(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            options = ["--quiet", "--no-deps", f"--wheel-dir={place}"]
            _run(sys.executable, "-m", "pip", "wheel", *options, str(REPOSITORY))
            self._pip("--no-deps", "--upgrade", *map(str, Path(place).glob("*.whl")))
        print(
            f"   {_run(str(self.python), '-c', _CHECK, str(self.site), variables=INSTALLED).strip()}",
            flush=True,
        )

    def _pip(self, *arguments: str) -> None:
        """Installs wheels for aarch64 by this machine's pip, which is faster than an emulated one."""
        platforms = [f"--platform={name}" for name in PLATFORMS]
        options = [
            "--quiet",
            "--only-binary=:all:",
            "--python-version=3.11",
            "--implementation=cp",
            *platforms,
        ]
        _run(sys.executable, "-m", "pip", "install", *options, f"--target={self.site}", *arguments)


def _run(*command: str, variables: dict[str, str] | None = None) -> str:
    """What a command prints; its errors, where it fails."""
    environment = os.environ | (variables or {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        words = " ".join(word for word in command[:4] if "\n" not in word)
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Makes the environment that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\nUsage")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help="where it is made (default: build/arm64)"
    )
    parser.add_argument("--clean", action="store_true", help="make everything anew")
    options = parser.parse_args()
    made = Environment(options.folder)
    made.make(clean=options.clean)
    print(made.python)


if __name__ == "__main__":
    main()
