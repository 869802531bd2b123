"""The installation of the sample of a small board, in a folder in place of the system's root, with stand-ins for its tools."""

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
VENV = '#!/bin/sh\nmkdir -p "$3/bin"\ncp {tools}/pip "$3/bin/pip"\n'


class Board:
    """A system, as far as the installation sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "system"
        self.sent = root / "sent"
        self.notes = root / "notes"
        self._tools = root / "tools"
        self._tools.mkdir()
        (self.root / "etc/systemd/system").mkdir(parents=True)
        for name in ("systemctl", "pip"):
            self._tool(name, NOTE.format(notes=self.notes))
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

    def install(self) -> list[str]:
        """Runs it, and returns what it called."""
        self.notes.unlink(missing_ok=True)
        environment = os.environ | {"PATH": f"{self._tools}:{os.environ['PATH']}"}
        subprocess.run(["/bin/sh", self.sent / "install.sh", self.root.group()], env=environment, check=True)
        return self.notes.read_text().splitlines()


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
        f"edgepeft-{version}-py3-none-any.whl": "",
    }


def test_a_second_installation_updates(system: Board) -> None:
    """The program, the bundle and the wheel are the new ones and nothing is left of the old; images stay as they are."""
    home, folder = (system.root / name for name in ("opt/edgepeft-reader", "srv/edgepeft-reader"))
    system.send(_files("1"))
    system.install()
    (folder / "examples/two/a.png").write_text("the user's")
    (folder / "adapter").mkdir()
    system.send(_files("2"))
    called = system.install()
    assert (home / "bundle/manifest.json").read_text() == (home / "README.md").read_text() == "2"
    assert [path.name for path in (home / "bundle").glob("only-*")] == ["only-2"]
    assert [path.name for path in (home / "samples").iterdir()] == ["only-2.py"]
    assert (folder / "examples/two/a.png").read_text() == "the user's"
    assert (folder / "adapter").is_dir()
    wheels = [text for text in called if text.startswith("pip install")]
    assert all("edgepeft-2-py3" in text for text in wheels)
    assert "--force-reinstall" in wheels[-1]
    assert called[-1] == "systemctl restart edgepeft-reader.service"


def test_the_folder_is_the_groups(system: Board) -> None:
    """Its members may write, and what they make is the group's, too; the unit is in it."""
    system.send(_files("1"))
    system.install()
    folder = system.root / "srv/edgepeft-reader"
    for path in (folder, folder / "examples/two"):
        assert path.stat().st_mode & 0o7070 == 0o2070
    assert (folder / "examples/two/a.png").stat().st_mode & 0o060 == 0o060
    unit = (system.root / "etc/systemd/system/edgepeft-reader.service").read_text()
    group = folder.group()
    assert f"\nSupplementaryGroups={group}\n" in unit


def test_a_group_that_does_not_exist(system: Board) -> None:
    """Is told before anything is changed."""
    system.send(_files("1"))
    command = ["/bin/sh", system.sent / "install.sh", "nobody-at-all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "group nobody-at-all: there is none; expected one that exists\n"
    assert not (system.root / "opt").exists()
