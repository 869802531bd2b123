"""The sample of a small board with two users: whose the images are, and who reads them. Needs root, to be either."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pi_reader import line, lines, reader

from samples.raspberry_pi.folders import Watched, by_class

#: The group of those who put images in, one of them, and the service: nobody has these numbers.
GROUP, CAMERA, SERVICE = 58_401, 58_402, 58_403


def _user(number: int, umask: int) -> list[str]:
    """A command that runs another as a user of the group, with no right but that user's."""
    ids = [f"--reuid={number}", f"--regid={number}", f"--groups={GROUP}"]
    return ["setpriv", *ids, "--inh-caps=-all", "sh", "-c", f'umask {umask:03o}; exec "$@"', "sh"]


AS_CAMERA, AS_SERVICE = _user(CAMERA, 0o022), _user(SERVICE, 0o002)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root, with setpriv, can be two others"
)


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """A Python that other users may run: this one, or a copy where root keeps that private."""
    if _runs(sys.executable):
        yield sys.executable
        return
    copy = Path(tempfile.mkdtemp())
    copy.chmod(0o755)
    version = Path(sysconfig.get_path("stdlib")).name
    (copy / "bin").mkdir()
    executable = shutil.copy(Path(sys.executable).resolve(), copy / "bin")
    (copy / "lib").mkdir()
    for path in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython*.so*"):
        shutil.copy(path, copy / "lib")
    left = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), copy / "lib" / version, ignore=left)
    (copy / "lib" / version / "site-packages").symlink_to(sysconfig.get_path("purelib"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", str(copy / "lib"))
        runs = _runs(executable)
        if runs:
            yield str(executable)
    shutil.rmtree(copy)
    if not runs:
        pytest.skip("other users may not read what is installed here")


def _runs(python: object) -> bool:
    """Whether the service's user may run a Python, with what the program needs."""
    command = [*AS_SERVICE, str(python), "-c", "import edgepeft, onnxruntime, PIL"]
    return subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0


@pytest.fixture
def place(board: Path) -> Iterator[Path]:
    """What goes to the board, where every user reaches it, and its folder, as install.sh makes it."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    shutil.copytree(board, place / "board")
    shutil.move(place / "board" / "start", place / "reader")
    Watched(place / "reader").make(("two",))  # not the seven
    for path in [place / "reader", *(place / "reader").rglob("*")]:
        os.chown(path, 0, GROUP)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    yield place
    shutil.rmtree(place)


def as_camera(*command: object) -> None:
    """Runs a command as the user who puts images in."""
    subprocess.run([*AS_CAMERA, *map(str, command)], check=True)


def shots(place: Path, count: int) -> list[Path]:
    """Images of a seven."""
    return sorted((place / "board" / "shots" / "seven").glob("*.png"))[:count]


def test_images_and_corrections_of_another_user(place: Path, python: str) -> None:
    """One puts in and corrects, the other sorts and learns, by their group alone."""
    few = place / "few"
    for _, path in list(by_class(place / "board" / "shots"))[::15]:
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, few / path.parent.name)
    watched = Watched(place / "reader")
    with reader(
        python, place / "board", watched.root, "--corrections=5", "--epochs=2", user=AS_SERVICE
    ) as run:
        line(run, "put images into")
        sensor = [*AS_CAMERA, python, "-m", "samples.raspberry_pi.sensor", few, watched.root]
        subprocess.run(sensor, cwd=place / "board", check=True, capture_output=True)
        assert "could not" not in lines(run, "learned in|could not")
    corrections = [path for _, path in by_class(watched.examples) if path.stat().st_uid == CAMERA]
    assert len(corrections) >= 5
    assert watched.adapter.stat().st_uid == SERVICE


def test_an_inbox_that_nothing_can_be_moved_from(place: Path, python: str) -> None:
    """An image is read, and told of once; when the folder is mended, it goes where it belongs."""
    inbox = place / "reader" / "inbox"
    os.chown(inbox, CAMERA, GROUP)
    inbox.chmod(0o755)
    with reader(python, place / "board", place / "reader", user=AS_SERVICE) as run:
        first, second = shots(place, 2)
        as_camera("cp", first, inbox)
        line(run, f"could not move .*{first.name} .*Permission denied")
        as_camera("cp", second, inbox)
        assert first.name not in lines(run, f"could not move .*{second.name}")
        as_camera("chmod", "g+w", inbox)
        line(run, rf"{first.name}: [a-z]+, \d+%")
    assert list((place / "reader" / "read").glob(f"*/{first.name}"))


def test_a_correction_in_a_folder_of_another_user(place: Path, python: str) -> None:
    """It is learned from once, and stays there."""
    seven = place / "reader" / "corrected" / "seven"
    as_camera("mkdir", seven)
    first, second = shots(place, 2)
    as_camera("cp", first, seven)
    with reader(
        python, place / "board", place / "reader", "--corrections=1", "--epochs=1", user=AS_SERVICE
    ) as run:
        told = lines(run, "could not|learned in")
        assert f"{first.name} an example: Permission denied" in told
        line(run, "learned in")
        as_camera("cp", second, place / "reader" / "inbox")
        assert "learning from" not in lines(run, rf"{second.name}: [a-z]+, \d+%")
    assert (seven / first.name).exists()


def test_an_image_that_may_not_be_read(place: Path, python: str) -> None:
    """It is told of, and goes out of the way; the next one is read."""
    first, second = shots(place, 2)
    inbox = place / "reader" / "inbox"
    with reader(python, place / "board", place / "reader", user=AS_SERVICE) as run:
        as_camera("install", "-m", "600", first, inbox)
        line(run, f"{first.name}.*Permission denied")
        as_camera("cp", second, inbox)
        line(run, rf"{second.name}: [a-z]+, \d+%")
