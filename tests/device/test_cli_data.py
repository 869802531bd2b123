"""Data on the command line: every kind of it, and each kind of fault in one line, with nothing written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from foreign_files import snapshot
from PIL import Image

from edgepeft.cli import main


def run(*arguments: object) -> Result:
    """Runs the program in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="edgepeft")


def refused(folder: Path, bundle: Path, data: Path, *more: object) -> str:
    """The one line that training on some data ends with; exit code 1, and nothing is left behind."""
    before = snapshot(folder)
    done = run(
        "train", bundle, "--data", data, "--output", folder / "out", "--checkpoint-dir", folder / "run", *more
    )
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert snapshot(folder) == before
    return done.stderr


def images(folder: Path, name: str = "3") -> Path:
    (folder / name).mkdir(parents=True)
    for number in range(3):
        Image.new("L", (8, 8), 80 * number).save(folder / name / f"{number}.png")
    return folder


def test_every_kind_of_data(handmade: Path, bundles: Path, tmp_path: Path) -> None:
    """JSON Lines, CSV, images, arrays: trained on and evaluated on."""
    (tmp_path / "a.jsonl").write_text('{"text": "sky", "label": "blue"}\n')
    (tmp_path / "a.csv").write_text("a,b,c,label\n1,2,3,walk\n")
    (tmp_path / "arrays").mkdir()
    for name, array in {"x": np.zeros((4, 3), np.float32), "labels": np.arange(4) % 3}.items():
        np.save(tmp_path / "arrays" / f"{name}.npy", array)
    kinds = [
        (handmade / "classifier", tmp_path / "a.jsonl", 1),
        (handmade / "sensor", tmp_path / "a.csv", 1),
        (handmade / "sensor", tmp_path / "arrays", 4),
        (bundles / "conv-net", images(tmp_path / "images"), 3),
    ]
    for bundle, data, rows in kinds:
        options = ["--data", data, "--eval", data, "--max-steps", 2, "--output", tmp_path / "out", "--json"]
        done = run("train", bundle, *options)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["truncated_rows"] == 0
        evaluated = json.loads(run("evaluate", bundle, "--data", data, "--json").stdout)
        assert evaluated["rows"] == rows


def test_rows_that_are_cut_are_told(handmade: Path, tmp_path: Path) -> None:
    """In the progress and in the result; without --max-length such a row is refused."""
    data = tmp_path / "a.jsonl"
    data.write_text('{"text": "abc"}\n' + json.dumps({"text": "a" * 60}) + "\n")
    options = ["--data", data, "--max-steps", 3, "--output", tmp_path / "out"]
    done = run("train", handmade / "chat", *options, "--max-length", 20, "--group-by-length", "--json")
    assert json.loads(done.stdout)["truncated_rows"] == 1
    assert "rows cut because they were too long: 1\n" in done.stderr
    assert "max_length" not in run("train", handmade / "chat", *options[2:], "--data", data).stdout
    line = refused(tmp_path, handmade / "chat", data)
    assert (
        "a.jsonl:2: is 61 tokens long; the model takes 48. Split it, or cut all such rows with --max-length."
        in line
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n\n{"txt": "b"}\n',
            'a.jsonl:3: has the keys txt; expected {"text"}, {"prompt"',
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": 5}\n',
            "a.jsonl:2: 'text' is 5; expected a text that is not empty.",
        ),
        ("a.jsonl", "", "a.jsonl: has no rows. Expected at least one."),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl:2: broken JSON: "),
        ("a.csv", "", "a.csv:1: has no rows. Expected a header"),
        ("a.csv", 'text\na\n"b\n', "a.csv:3: broken CSV: unexpected end of data. Check its quotes."),
        ("a.csv", "text\na\nb,c\n", "a.csv:3: has 2 columns, the header 1. Quote a field that has commas."),
        ("a.npy", "text", "a.npy: is one array; the model takes several."),
    ],
    ids=["key", "type", "empty", "broken JSON", "empty CSV", "broken CSV", "broken row", "one array"],
)
def test_a_broken_file(handmade: Path, tmp_path: Path, name: str, text: str, words: str) -> None:
    """File, line, what was found, what is expected."""
    (tmp_path / name).write_text(text)
    assert words in refused(tmp_path, handmade / "chat", tmp_path / name)


def test_a_label_unknown_to_the_model(handmade: Path, tmp_path: Path) -> None:
    """With those that it knows."""
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "red"}\n{"text": "b", "label": "pink"}\n')
    line = refused(tmp_path, handmade / "classifier", tmp_path / "a.jsonl")
    assert "a.jsonl:2: label 'pink' is unknown; the model knows red, green, blue." in line


def test_an_image_that_is_none(bundles: Path, tmp_path: Path) -> None:
    """By what is in it, whatever its name says."""
    data = images(tmp_path / "photos")
    (data / "3" / "1.png").write_text("no picture")
    assert "photos/3/1.png: is no image that can be read" in refused(tmp_path, bundles / "conv-net", data)


def test_an_empty_folder(bundles: Path, tmp_path: Path) -> None:
    """No class, no image."""
    (tmp_path / "photos").mkdir()
    assert "photos: has no rows. Expected at least one." in refused(
        tmp_path, bundles / "conv-net", tmp_path / "photos"
    )


CHILD = """
import os, sys
from pathlib import Path
from edgepeft.data import files
from edgepeft.errors import DataError
if os.getuid() == 0:  # root may read everything
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    {"folder": files.entries, "file": files.sha256}[sys.argv[1]](Path(sys.argv[1]))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_without_read_permission(tmp_path: Path, kind: str) -> None:
    """As an ordinary user, for whom the system's own refusal is real."""
    path = tmp_path / kind
    path.mkdir() if kind == "folder" else path.write_text("x")
    path.chmod(0)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", CHILD, kind]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    path.chmod(0o700)
    assert done.stdout == f"{kind}: cannot be read: Permission denied. Check its permissions.\n", done.stderr


def test_a_folder_without_read_permission(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's line. The system's refusal is simulated, since root is never refused."""
    data = images(tmp_path / "photos")
    real = os.scandir

    def refuse(path: object) -> object:
        if str(path) == str(data):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("edgepeft.data.files.os.scandir", refuse)
    command = ["train", bundles / "conv-net", "--data", data, "--output", tmp_path / "out"]
    done = run(*command)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {data}: cannot be read: Permission denied. Check its permissions.\n"
    assert not (tmp_path / "out").exists()


def test_numbers_are_told_as_what_they_are(handmade: Path, tmp_path: Path) -> None:
    """Small adapters in kB, short steps in ms, a MB of 10^6 bytes; counts are whole, and there are no tokens."""
    data = tmp_path / "a.csv"
    data.write_text("a,b,c,label\n" + "1,2,3,walk\n" * 1200)
    command = ["train", handmade / "sensor", "--data", data, "--max-steps", 2, "--output", tmp_path / "out"]
    line = run(*command).stdout
    assert re.search(
        r": [\d.]+ (bytes|kB) after 2 of 2 steps of [\d.]+ ms, peak memory [\d,.]+ MB$", line.strip()
    )
    told = json.loads(run(*command, "--json").stdout)
    assert told["tokens_per_second"] is None
    assert told["adapter_bytes"] > 0
    evaluated = run("evaluate", handmade / "sensor", "--data", data, "--json").stdout
    assert '"counted": 1200, "rows": 1200' in evaluated
    assert ", counted 1,200, rows 1,200" in run("evaluate", handmade / "sensor", "--data", data).stdout
