"""The sample of a small board, on this machine: what goes to the board, the program, its folder and its unit."""

import configparser
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TextIO

import pytest
from pi_reader import get_better, idle_share, line, lines, reader, score

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
    """Is told at once, by the folder's own name, and does not keep the others from being learned from."""
    folder = tmp_path / "reader"
    shutil.copytree(board / "start", folder)
    (shot,) = list((board / "shots" / "two").glob("*.png"))[:1]
    for name in ("two", "Two"):
        (folder / "corrected" / name).mkdir(parents=True)
        shutil.copy(shot, folder / "corrected" / name)
    with reader(sys.executable, board, folder, "--corrections=1", "--epochs=1") as run:
        line(run, rf"{folder}/corrected/Two: is no class, .* the model knows zero, one, two")
        line(run, "learned in")


def _watch(
    board: Path, bundle: Path, folder: object, *options: str, output: int | TextIO = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """Runs the program, which is to end by itself."""
    command = [sys.executable, "-m", "samples.raspberry_pi.watch", bundle, str(folder), *options]
    return subprocess.run(
        command, cwd=board, stdout=output, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )


def test_a_model_without_images(bundles: Path, board: Path, tmp_path: Path) -> None:
    """One line, and nothing is made."""
    done = _watch(board, bundles / "tiny-llama", tmp_path / "reader")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "does not read images" in done.stderr
    assert not (tmp_path / "reader").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["reader", "--corrections=0"], "0: expected a whole number, at least 1"),
        (["reader", "--corrections=-1"], "-1: expected a whole number, at least 1"),
        (["reader", "--epochs=x"], "x: expected a whole number, at least 1"),
        (["missing/reader"], "missing/reader: expected a folder, or a new name in one that exists"),
        (["file"], "file: expected a folder, or a new name in one that exists"),
    ],
)
def test_arguments_that_make_no_sense(board: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    """Are refused before anything is made."""
    (tmp_path / "file").touch()
    folder, *options = arguments
    done = _watch(board, board / "bundle", tmp_path / folder, *options)
    assert done.returncode == 2
    assert done.stderr.endswith(told + "\n")
    assert not (tmp_path / "reader").exists()


def test_a_folder_that_is_new_and_watched(board: Path, tmp_path: Path) -> None:
    """It is made, and that is told; a second reader of it is refused in a line; after the first, another may."""
    folder = tmp_path / "reader"
    with reader(sys.executable, board, folder) as run:
        line(run, "^made the folder; put images into")
        done = _watch(board, board / "bundle", folder)
        assert done.returncode == 1
        assert done.stderr == (
            f"Error: {folder}: another reader watches it. End that one, or take another folder.\n"
        )
    with reader(sys.executable, board, folder) as run:
        line(run, "^put images into")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_takes_nothing(board: Path, tmp_path: Path) -> None:
    """One line, and the end."""
    with Path("/dev/full").open("w") as full:
        done = _watch(board, board / "bundle", tmp_path, output=full)
    assert done.returncode == 1
    assert done.stderr == "Error: could not write what it does: No space left on device.\n"


def test_an_image_of_too_many_pixels(board: Path, tmp_path: Path) -> None:
    """Is told in a line, without the decoder's own warning."""
    with reader(sys.executable, board, tmp_path) as run:
        line(run, "put images into")
        header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
        chunk = b"IHDR" + header
        content = struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / "inbox" / "large.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + content + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        )
        told = lines(run, r"large\.png: ")
    assert "Warning" not in told
    assert "has 169 million pixels" in told


def test_what_goes_to_the_board_is_made_anew(board: Path, tmp_path: Path) -> None:
    """It holds the program as it is, not as it was when it was made first."""
    target = tmp_path / "board"
    (target / "samples").mkdir(parents=True)
    (target / "samples" / "old.py").touch()
    workstation.main(target, board.parent / "digits")
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in board.iterdir())
    assert not (target / "samples" / "old.py").exists()


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
