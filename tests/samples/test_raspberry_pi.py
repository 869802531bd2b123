"""The sample of a small board, on this machine: what goes to the board, the program, its folder and its unit."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pi_reader import get_better, idle_share, line, reader, score

from samples.raspberry_pi import folders, watch, workstation
from samples.raspberry_pi.folders import Watched

HERE = Path(workstation.__file__).parent


def test_it_gets_better(board: Path, tmp_path: Path) -> None:
    """From the first look to a better score on held-out images, by images put in and moved."""
    before, after = get_better(sys.executable, board, tmp_path / "reader")
    assert before < 50
    assert after > before + 10


def test_a_restart_goes_on_with_what_was_learned(board: Path, tmp_path: Path) -> None:
    """The score is that of the adapter; files that are no images, or half of one, are told and put aside."""
    folder = tmp_path / "reader"
    _, after = get_better(sys.executable, board, folder, "--epochs=2")
    with reader(sys.executable, board, folder) as run:
        assert score(run) == after
        (folder / "inbox" / "note.png").write_text("not an image")
        line(run, r"note\.png: is no image that can be read")
        assert (folder / "unreadable" / "note.png").exists()
        assert idle_share(run, 4) < 0.01


def test_a_correction_to_a_class_that_is_none(board: Path, tmp_path: Path) -> None:
    """Is told once, in words, and the program goes on."""
    folder = tmp_path / "reader"
    shutil.copytree(board / "start", folder)
    (shot,) = list((board / "shots" / "two").glob("*.png"))[:1]
    (folder / "corrected" / "eleven").mkdir(parents=True)
    shutil.copy(shot, folder / "corrected" / "eleven")
    with reader(sys.executable, board, folder, "--corrections=1") as run:
        assert "label 'eleven' is unknown" in line(run, "could not learn: .*")[0]
        shutil.copy(shot, folder / "inbox")
        line(run, rf"{shot.name}: [a-z]+, \d+%")


def test_a_model_without_images(bundles: Path, board: Path, tmp_path: Path) -> None:
    """One line, and nothing is made."""
    command = [
        sys.executable,
        "-m",
        "samples.raspberry_pi.watch",
        bundles / "tiny-llama",
        tmp_path / "reader",
    ]
    done = subprocess.run(command, cwd=board, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "does not read images" in done.stderr


def test_a_second_image_of_a_name_keeps_the_first(tmp_path: Path) -> None:
    """A camera may count from one again."""
    for content in ("first", "second"):
        (tmp_path / "a.png").write_text(content)
        folders.move(tmp_path / "a.png", tmp_path / "there")
    assert (tmp_path / "there" / "a.png").read_text() == "first"
    assert (tmp_path / "there" / "a-2.png").read_text() == "second"


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Hidden files, and what is no image by its name."""
    for name in (".a.png", "b.PNG", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in folders.images(tmp_path)] == ["b.PNG"]
    assert folders.images(tmp_path / "missing") == []
    assert list(folders.by_class(Watched(tmp_path).examples)) == []


def test_the_unit_is_what_its_readme_says() -> None:
    """A user of its own, bounds, a file system to read only, a new start after a failure."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(HERE / "edgepeft-reader.service")
    service = dict(unit["Service"])
    assert (
        service.items()
        >= {
            "DynamicUser": "yes",
            "MemoryMax": "400M",
            "CPUQuota": "50%",
            "Nice": "10",
            "ProtectSystem": "strict",
            "ReadWritePaths": "/srv/edgepeft-reader",
            "Restart": "on-failure",
        }.items()
    )
    assert f"{watch.MAX_MEMORY >> 20}M" == service["MemoryMax"]


def test_the_installation_is_a_shell_script() -> None:
    """It parses, and needs no more than a shell."""
    assert subprocess.run(["/bin/sh", "-n", HERE / "install.sh"], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Every word of it; what it has to say of other units is not heeded."""
    unit = tmp_path / "edgepeft-reader.service"
    text = (HERE / unit.name).read_text().replace("/opt/edgepeft-reader/venv/bin/python", sys.executable)
    unit.write_text(text)
    done = subprocess.run(
        [shutil.which("systemd-analyze") or "", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert unit.name not in done.stderr
