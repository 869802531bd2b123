"""CPython 3.11 for aarch64 and QEMU from Debian's packages, unpacked into a folder: nothing is installed on this machine.

apt runs on lists and settings of its own in that folder. Of the host's configuration it takes the mirror, the keys, and
how the network is reached, and no hooks.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

#: QEMU 7.2 of Debian 12 crashes when onnxruntime is imported; 10 does not.
QEMU_SUITE = "trixie"
#: Raspberry Pi OS of 2023 to 2025 is built on it, with Python 3.11.
ROOT_SUITE = "bookworm"
QEMU_PACKAGE = "qemu-user"
ROOT_PACKAGES = (
    "python3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libstdc++6",
    "libgcc-s1",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libssl3",
    "libbz2-1.0",
    "liblzma5",
    "libsqlite3-0",
    "libuuid1",
    "libncursesw6",
    "libtinfo6",
    "libreadline8",
    "libgomp1",
)


def unpack(folder: Path) -> None:
    """Fills `folder/root` with Python for aarch64 and puts `folder/qemu-aarch64` beside it; what was there goes.

    Raises:
        SystemExit: This is no x86-64 Debian, or a package cannot be had.
    """
    if platform.machine() != "x86_64" or shutil.which("dpkg") is None:
        raise SystemExit(
            f"QEMU from Debian's packages needs an x86-64 Debian, and this machine is {platform.machine()} "
            f"{platform.system()}. Install Docker with arm64 emulation instead; on arm64 itself run `make test`."
        )
    work, root = folder / "apt", folder / "root"
    for path in (work, root):
        shutil.rmtree(path, ignore_errors=True)
    mirror = _mirror(work)
    (qemu,) = _packages(work / "qemu", f"{mirror} {QEMU_SUITE}", "amd64", (QEMU_PACKAGE,), needed=False)
    _run("dpkg", "-x", str(qemu), str(work / "unpacked"))
    shutil.copy2(work / "unpacked/usr/bin/qemu-aarch64", folder / "qemu-aarch64")
    for package in _packages(work / "root", f"{mirror} {ROOT_SUITE}", "arm64", ROOT_PACKAGES, needed=True):
        _run("dpkg", "-x", str(package), str(root))
    shutil.rmtree(work)


def mirror_of(uris: str) -> str:
    """The mirror of Debian among what `apt-get update --print-uris` prints.

    Raises:
        SystemExit: There is none.
    """
    found = re.search(
        r"^'(\S+)/dists/(?:bullseye|bookworm|trixie|forky|stable|testing|sid)/InRelease'", uris, re.MULTILINE
    )
    if found is None:
        raise SystemExit(
            "apt knows no mirror of Debian. Add one to /etc/apt/sources.list.d, as Debian has it."
        )
    return found[1]


def network_settings(dump: str) -> str:
    """The lines of `apt-config dump` that say how the network is reached: proxies and certificates, no hooks."""
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith("Acquire::"))


def _mirror(work: Path) -> str:
    """The mirror that the host's apt uses."""
    lists = work / "host"
    (lists / "partial").mkdir(parents=True)
    return mirror_of(_run("apt-get", f"-oDir::State::Lists={lists}", "update", "--print-uris"))


def _packages(
    work: Path, source: str, architecture: str, names: tuple[str, ...], *, needed: bool
) -> list[Path]:
    """Downloads packages, with what they need or without, as files.

    Args:
        work: A folder for apt's lists, settings and downloads.
        source: A mirror and a suite.
        architecture: As dpkg names it.
        names: The packages.
        needed: Whether what they depend on comes too.
    """
    for place in ("lists/partial", "cache/archives/partial", "parts", "download"):
        (work / place).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb {source} main\n")
    (work / "status").touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Dir::Cache": work / "cache",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": work / "parts",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": work / "status",
    }
    lines = "".join(f'{name} "{value}";\n' for name, value in settings.items())
    (work / "apt.conf").write_text(network_settings(_run("apt-config", "dump")) + lines)
    environment = os.environ | {"APT_CONFIG": str(work / "apt.conf")}
    _run("apt-get", "update", environment=environment)
    if not needed:
        _run("apt-get", "download", *names, environment=environment, where=work / "download")
        return sorted((work / "download").glob("*.deb"))
    options = ("--yes", "--download-only", "--no-install-recommends")
    _run("apt-get", "install", *options, *names, environment=environment)
    return sorted((work / "cache/archives").glob("*.deb"))


def _run(*command: str, environment: dict[str, str] | None = None, where: Path | None = None) -> str:
    """What a command prints; its errors, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=where)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command[:3])}: exit code {done.returncode}\n{done.stderr or done.stdout}"
        )
    return done.stdout
