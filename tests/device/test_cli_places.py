"""Where the command line does not write: into a bundle, and into a folder of data."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from foreign_files import snapshot

import edgepeft
from edgepeft.cli import main
from edgepeft.cli.output import AdapterOutput
from edgepeft.cli.shared import check_adapter_output
from edgepeft.errors import StorageError
from edgepeft.formats import export_adapter


def run(*arguments: object) -> Result:
    """Runs the program in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="edgepeft")


def refused(*arguments: object) -> str:
    """The one line of wrong use."""
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def bundle(handmade: Path, tmp_path: Path) -> Path:
    """A bundle that may break."""
    return Path(shutil.copytree(handmade / "chat", tmp_path / "bundle"))


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps({"text": "the key is here."}) + "\n")
    return path


@pytest.mark.parametrize(
    ("option", "inside"),
    [
        ("--output", "mine"),
        ("--output", ""),
        ("--output", "adapters/initial"),
        ("--output", "../link/adapters/mine"),
        ("--log", "log.jsonl"),
        ("--report", "assets/report.html"),
        ("--checkpoint-dir", "run"),
    ],
)
def test_training_writes_nothing_into_a_bundle(
    bundle: Path, facts: Path, tmp_path: Path, option: str, inside: str
) -> None:
    """A file more, or another first adapter, and the bundle is refused for ever after; a link hides nothing."""
    (tmp_path / "link").symlink_to("bundle")
    before = snapshot(tmp_path)
    output = [] if option == "--output" else ["--output", tmp_path / "out"]
    place = bundle / inside
    line = refused("train", bundle, "--data", facts, "--max-steps", 1, *output, option, place)
    told = f"{option} {place} is in the bundle {bundle}, whose files are all listed. Choose another place."
    assert told in line
    assert snapshot(tmp_path) == before
    edgepeft.Bundle.open(bundle)


def test_adapters_are_not_written_into_a_bundle(bundle: Path, handmade: Path, tmp_path: Path) -> None:
    """Nor by a merge or an export, whosever bundle it is."""
    initial = bundle / "adapters" / "initial"
    before = snapshot(tmp_path)
    for inside in ("adapters/initial", "everybody"):
        line = refused("adapter", "merge", initial, initial, "--output", bundle / inside)
        assert f"--output {bundle / inside} is in the bundle {bundle}" in line
    for kind in ("peft", "onnx_adapter", "onnx"):
        command = ("adapter", "export", handmade / "chat", initial, bundle / "made", "--format", kind)
        assert f"OUTPUT {bundle / 'made'} is in the bundle {bundle}" in refused(*command)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("option", ["--output", "--log", "--report", "--checkpoint-dir"])
@pytest.mark.parametrize("given", ["--data", "--eval"])
def test_training_writes_nothing_into_the_data(
    bundle: Path, facts: Path, tmp_path: Path, option: str, given: str
) -> None:
    """A folder of images would have a class more the next time."""
    photos = tmp_path / "photos"
    photos.mkdir()
    before = snapshot(tmp_path)
    output = [] if option == "--output" else ["--output", tmp_path / "out"]
    data = ["--data", facts] if given == "--eval" else []
    line = refused("train", bundle, *data, given, photos, *output, option, photos / "made")
    assert f"{option} {photos / 'made'} is in the folder of data {photos}, where it would be data." in line
    assert snapshot(tmp_path) == before


def test_a_place_beside_the_bundle_is_taken(bundle: Path, facts: Path, tmp_path: Path) -> None:
    """And so is one beside a data file, or below a manifest of something else."""
    (tmp_path / "manifest.json").write_text("{}")
    options = ["--output", tmp_path / "out", "--log", tmp_path / "log.jsonl"]
    assert run("train", bundle, "--data", facts, "--max-steps", 1, *options).exit_code == 0


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be looked into, as the system has it for anybody but root."""
    folder = tmp_path / "theirs"
    folder.mkdir()

    def closed(name: str) -> None:
        real = getattr(Path, name)

        def looked_at(path: Path, *rest: object, **more: object) -> object:
            if folder in path.parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *rest, **more)

        monkeypatch.setattr(Path, name, looked_at)

    for name in ("exists", "is_dir", "is_file", "iterdir", "open"):
        closed(name)
    return folder


@pytest.mark.parametrize("option", ["--output", "--report", "--log", "--checkpoint-dir"])
def test_a_place_that_may_not_be_looked_at(bundle: Path, facts: Path, theirs: Path, option: str) -> None:
    """One line with what to do, before the first step."""
    output = [] if option == "--output" else ["--output", theirs.parent / "out"]
    done = run("train", bundle, "--data", facts, "--max-steps", 1, *output, option, theirs / "made")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "theirs" in done.stderr
    assert "cannot be written: Permission denied. Write to a folder that you own; nothing was" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("check", ["adapter", "report", "export", "stopped"])
def test_each_look_at_a_place_is_guarded(handmade: Path, theirs: Path, check: str) -> None:
    """What each part of the program looks at by itself."""
    model = edgepeft.load(handmade / "chat")
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1))
    place = theirs / "made"
    result = trainer.fit([{"text": "hello."}])
    stopped = dataclasses.replace(result, stop_reason="stopped")
    checks = {
        "adapter": lambda: check_adapter_output(place),
        "report": lambda: edgepeft.HtmlReport(place, trainer),
        "export": lambda: export_adapter(model.bundle, model.adapter, place, "peft"),
        "stopped": lambda: AdapterOutput(place).on_train_end(stopped),
    }
    with pytest.raises(StorageError, match=r"Permission denied\. Write to a folder that you own"):
        checks[check]()


def test_nothing_is_put_into_an_adapters_folder(bundle: Path, facts: Path, tmp_path: Path) -> None:
    """It would no longer be replaced; an adapter takes its place, and a folder that holds more is the user's own."""
    initial, alice = bundle / "adapters" / "initial", tmp_path / "alice"
    shutil.copytree(initial, alice)
    before = snapshot(tmp_path)
    training = ("train", bundle, "--data", facts, "--max-steps", 1, "--output")
    export = ("adapter", "export", bundle, alice)
    for option, place, command in (
        ("--output", "sub", ("adapter", "merge", alice, initial, "--output")),
        ("OUTPUT", "e.onnx_adapter", export),
        ("--output", "sub", training),
        ("--log", "log.jsonl", (*training, tmp_path / "out", "--log")),
        ("--report", "deep/er.html", (*training, tmp_path / "out", "--report")),
        ("--checkpoint-dir", "", (*training, tmp_path / "out", "--checkpoint-dir")),
    ):
        kind = ["--format", "onnx_adapter"] if option == "OUTPUT" else []
        line = refused(*command, alice / place, *kind)
        assert f"{option} {alice / place} is in the adapter's folder {alice}, which holds it alone." in line
    assert snapshot(tmp_path) == before
    assert run("adapter", "merge", alice, initial, "--output", alice).exit_code == 0
    (alice / "notes.txt").write_text("mine")
    assert run("adapter", "merge", alice, initial, "--output", alice / "sub").exit_code == 0


@pytest.mark.parametrize("inside", ["", "made"])
@pytest.mark.parametrize("option", ["--output", "--report", "--log", "--checkpoint-dir"])
def test_a_loop_of_links(bundle: Path, facts: Path, tmp_path: Path, option: str, inside: str) -> None:
    """One line for a place that leads nowhere; where a file only takes the link's place, nothing is wrong."""
    (tmp_path / "loop").symlink_to("loop")
    output = [] if option == "--output" else ["--output", tmp_path / "out"]
    place = tmp_path / "loop" / inside
    done = run("train", bundle, "--data", facts, "--max-steps", 1, *output, option, place)
    if (option, inside) == ("--report", ""):
        assert done.exit_code == 0
        return
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(place) in done.stderr
    assert done.stderr.count("\n") == 1
    assert "--debug" not in done.stderr
