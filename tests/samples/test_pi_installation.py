"""The installation of the sample of a small board, in a folder in place of the system's root, with stand-ins for its tools."""

import grp
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from samples.raspberry_pi import workstation

HERE = Path(workstation.__file__).parent
PLACES = ("/opt/edgepeft-reader", "/srv/edgepeft-reader", "/etc/systemd/system")
#: In place of python3, whose `-m venv` makes a folder with a pip, and of that and systemctl, which take notes.
NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >> {notes}\n'
#: In place of systemctl: where a service fails, it is not active.
SYSTEMCTL = NOTE + '[ "$1" != is-active ] || [ ! -e {failing} ]\n'
VENV = '#!/bin/sh\nmkdir -p "$3/bin"\ncp {tools}/pip "$3/bin/pip"\n'


class Board:
    """A system, as far as the installation sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "system"
        self.sent = root / "sent"
        self.notes = root / "notes"
        self.failing = root / "failing"
        self._tools = root / "tools"
        self._tools.mkdir()
        (self.root / "etc/systemd/system").mkdir(parents=True)
        for name, text in {"systemctl": SYSTEMCTL, "pip": NOTE, "sleep": "#!/bin/sh\n"}.items():
            self._tool(name, text.format(notes=self.notes, failing=self.failing))
        self._tool("python3", VENV.format(tools=self._tools))

    def _tool(self, name: str, text: str) -> None:
        (self._tools / name).write_text(text)
        (self._tools / name).chmod(0o755)

    def send(self, files: dict[str, str]) -> None:
        """What `rsync --delete` brings."""
        shutil.rmtree(self.sent, ignore_errors=True)
        for name, content in files.items():
            (self.sent / name).parent.mkdir(parents=True, exist_ok=True)
            (self.sent / name).write_text(content)
        shutil.copy(HERE / "edgepeft-reader.service", self.sent)
        script = (HERE / "install.sh").read_text()
        for place in PLACES:
            script = script.replace(place, f"{self.root}{place}")
        (self.sent / "install.sh").write_text(script)

    def install(self, group: str = "") -> list[str]:
        """Runs it for a group, or for that of this folder, and returns what it called."""
        done = self.run(group)
        assert done.returncode == 0, done.stderr
        return self.notes.read_text().splitlines()

    def run(self, group: str = "") -> "subprocess.CompletedProcess[str]":
        """Runs it, as a user whose new files are private."""
        self.notes.unlink(missing_ok=True)
        environment = os.environ | {"PATH": f"{self._tools}:{os.environ['PATH']}"}
        command = ["/bin/sh", self.sent / "install.sh", group or self.root.group()]
        return subprocess.run(
            command, env=environment, umask=0o077, capture_output=True, text=True, check=False
        )


@pytest.fixture
def system(tmp_path: Path) -> Board:
    """With nothing installed."""
    return Board(tmp_path)


def _files(version: str) -> dict[str, str]:
    return {
        "bundle/manifest.json": version,
        f"bundle/only-{version}": "",
        f"samples/only-{version}.py": "",
        "README.md": version,
        "start/examples/two/a.png": version,
        "start/examples/two/b.png": version,
        f"edgepeft-{version}-py3-none-any.whl": "",
    }


def test_a_second_installation_updates(system: Board) -> None:
    """The program, the bundle and the wheel are the new ones and nothing is left of the old; images stay as they are."""
    home, folder = (system.root / name for name in ("opt/edgepeft-reader", "srv/edgepeft-reader"))
    system.send(_files("1"))
    system.install()
    (folder / "examples/two/a.png").write_text("the user's")
    (folder / "examples/two/b.png").unlink()
    (folder / "adapter").mkdir()
    system.send(_files("2"))
    called = system.install()
    assert (home / "bundle/manifest.json").read_text() == (home / "README.md").read_text() == "2"
    assert [path.name for path in (home / "bundle").glob("only-*")] == ["only-2"]
    assert [path.name for path in (home / "samples").iterdir()] == ["only-2.py"]
    assert (folder / "examples/two/a.png").read_text() == "the user's"
    assert {path.name for path in folder.rglob("*")} == {
        "examples",
        "two",
        "a.png",
        "adapter",
    }  # no b.png again
    assert (folder / "adapter").is_dir()
    wheels = [text for text in called if text.startswith("pip install")]
    assert all("edgepeft-2-py3" in text for text in wheels)
    assert "--force-reinstall" in wheels[-1]
    assert [text for text in called if text.startswith("systemctl")] == [
        "systemctl stop edgepeft-reader.service",
        "systemctl daemon-reload",
        "systemctl enable edgepeft-reader.service",
        "systemctl restart edgepeft-reader.service",
        "systemctl is-active --quiet edgepeft-reader.service",
    ]


def test_what_was_sent_is_private(system: Board) -> None:
    """What is installed may be read by the service, who is another user."""
    system.send(_files("1"))
    for path in [system.sent, *system.sent.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    system.install()
    home = system.root / "opt/edgepeft-reader"
    for path in [home, *home.rglob("*"), system.root / "etc/systemd/system/edgepeft-reader.service"]:
        needed = 0o005 if path.is_dir() else 0o004
        assert path.stat().st_mode & needed == needed, path


def test_a_service_that_does_not_run(system: Board) -> None:
    """The installation fails, and says where to look."""
    system.send(_files("1"))
    system.failing.touch()
    done = system.run()
    assert done.returncode == 1
    assert done.stderr == (
        "edgepeft-reader.service: stopped within 8 seconds; "
        "expected one that runs; why: journalctl -u edgepeft-reader\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to a group that it is not in")
def test_the_folder_is_the_groups(system: Board) -> None:
    """Its members may write, and what they make is the group's, too; the unit is in it."""
    group = next(
        each.gr_name
        for each in grp.getgrall()
        if each.gr_gid not in {system.root.stat().st_gid, os.getegid()}
    )
    system.send(_files("1"))
    system.install(group)
    folder = system.root / "srv/edgepeft-reader"
    assert {path.group() for path in [folder, *folder.rglob("*")]} == {group}
    for path in (folder, folder / "examples/two"):
        assert path.stat().st_mode & 0o7070 == 0o2070
    assert (folder / "examples/two/a.png").stat().st_mode & 0o060 == 0o060
    unit = (system.root / "etc/systemd/system/edgepeft-reader.service").read_text()
    assert f"\nSupplementaryGroups={group}\n" in unit
    assert "\nUMask=0002\n" in unit  # what the service makes, members of the group may write


def test_a_group_that_does_not_exist(system: Board) -> None:
    """Is told before anything is changed."""
    system.send(_files("1"))
    command = ["/bin/sh", system.sent / "install.sh", "nobody-at-all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "group nobody-at-all: there is none; expected one that exists\n"
    assert not (system.root / "opt").exists()
