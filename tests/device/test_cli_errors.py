"""Wrong use and failures of the command line: one line, the next step, the right exit code, nothing written."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from foreign_files import snapshot

from edgepeft import store
from edgepeft.cli import main
from edgepeft.errors import StorageError


def run(*arguments: object) -> Result:
    """Runs the program in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="edgepeft")


def refused(code: int, *arguments: object) -> str:
    """The line of an error; it is the only one, nothing is printed besides."""
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def train(handmade: Path, tmp_path: Path) -> Callable[..., list[object]]:
    """The arguments of a training that would work, and more."""
    data = tmp_path / "facts.jsonl"
    data.write_text(json.dumps({"text": "the key is here."}) + "\n")

    def command(*more: object, output: Path = tmp_path / "out") -> list[object]:
        return [
            "train",
            handmade / "chat",
            "--data",
            data,
            "--output",
            output,
            "--max-steps",
            1,
            *more,
        ]

    return command


def test_the_command_that_the_others_break(train: Callable[..., list[object]]) -> None:
    """Without a fault it works."""
    assert run(*train()).exit_code == 0


@pytest.mark.parametrize("size", [0, -3])
def test_batch_size_0(train: Callable[..., list[object]], tmp_path: Path, size: int) -> None:
    """No batch at all, or fewer."""
    before = snapshot(tmp_path)
    line = refused(2, *train("--batch-size", size))
    assert f"--batch-size is {size}; expected at least 1" in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("rate", "shown"), [("nan", "nan"), ("-0.1", "-0.1"), ("0", "0.0"), ("inf", "inf")])
def test_a_learning_rate_that_is_none(
    train: Callable[..., list[object]], tmp_path: Path, rate: str, shown: str
) -> None:
    """NaN, negative, zero, infinite: told before a step is made."""
    before = snapshot(tmp_path)
    line = refused(2, *train("--learning-rate", rate))
    assert f"--learning-rate is {shown}; expected more than 0" in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "--learnin-rate", "1"],
            "'--learnin-rate'. Did you mean '--learning-rate'? See `edgepeft train",
        ),
        (["adapter", "show", "--jsn"], "'--jsn'. Did you mean '--json'? See `edgepeft adapter show --help`."),
        (["trian"], "'trian'. Did you mean 'train'? See `edgepeft --help`."),
        (["adapter", "mrege"], "'mrege'. Did you mean 'merge'? See `edgepeft adapter --help`."),
        (["--debgu", "info"], "'--debgu'. Did you mean '--debug'? See `edgepeft --help`."),
        (["info", "--xyzzy"], "No such option '--xyzzy'. See `edgepeft info --help`."),
        (
            ["adapter", "export", ".", ".", "x"],
            "Missing option '--format'. Choose from: peft, onnx_adapter, onnx.",
        ),
        (["info"], "Missing argument 'BUNDLE'. See `edgepeft info --help`."),
        (
            ["completion", "tcsh"],
            "'tcsh' is not one of 'bash', 'zsh', 'fish'. See `edgepeft completion --help`.",
        ),
        (["info", "nowhere"], "Directory 'nowhere' does not exist. See `edgepeft info --help`."),
    ],
)
def test_an_unknown_option_or_command(arguments: list[str], words: str) -> None:
    """The nearest name, where there is one, and where to read on."""
    assert words in refused(2, *arguments)


def test_no_command_shows_help() -> None:
    """The program by itself, and a group by itself, say what there is."""
    for arguments in ([], ["adapter"]):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "Commands:" in done.stderr


def test_an_output_folder_that_exists(train: Callable[..., list[object]], tmp_path: Path) -> None:
    """With something else inside it is refused before the first step, and stays."""
    output = tmp_path / "photos"
    output.mkdir()
    (output / "cat.jpg").write_bytes(b"cat")
    before = snapshot(tmp_path)
    line = refused(1, *train(output=output))
    assert "photos: exists and is not an adapter's folder. Choose another --output." in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("target", ["away", "nowhere"])
def test_an_output_that_is_a_link(train: Callable[..., list[object]], tmp_path: Path, target: str) -> None:
    """To a folder or to nothing: an adapter does not take its place, which is told before the first step."""
    (tmp_path / "away").mkdir()
    (tmp_path / "link").symlink_to(target)
    before = snapshot(tmp_path)
    line = refused(1, *train(output=tmp_path / "link"))
    assert "link: exists and is not an adapter's folder. Choose another --output." in line
    assert snapshot(tmp_path) == before


def test_an_output_folder_of_links(train: Callable[..., list[object]], tmp_path: Path) -> None:
    """Files of the right names that are links are not an adapter's."""
    output = tmp_path / "alice"
    output.mkdir()
    (output / "adapter_config.json").symlink_to(tmp_path / "facts.jsonl")
    line = refused(1, *train(output=output))
    assert "alice: exists and is not an adapter's folder. Choose another --output." in line
    assert (output / "adapter_config.json").is_symlink()


@pytest.mark.parametrize(
    ("option", "inside"),
    [
        ("--report", "report.html"),
        ("--log", "log.jsonl"),
        ("--checkpoint-dir", "run"),
        ("--checkpoint-dir", ""),
        ("--checkpoint-dir", "../out/run"),
    ],
)
def test_nothing_else_goes_into_the_output(
    train: Callable[..., list[object]], tmp_path: Path, option: str, inside: str
) -> None:
    """The adapter would not be saved there after the training: told before the first step."""
    before = snapshot(tmp_path)
    line = refused(2, *train(option, tmp_path / "out" / inside))
    assert f"{option} " in line
    assert "is in --output, which holds the adapter alone. Choose another place." in line
    assert snapshot(tmp_path) == before


def test_a_log_in_the_place_of_something_else(train: Callable[..., list[object]], tmp_path: Path) -> None:
    """The data keeps what it has, and the report does not replace the log."""
    before = snapshot(tmp_path)
    line = refused(1, *train("--log", tmp_path / "facts.jsonl"))
    assert "facts.jsonl: exists and is no log of training. Choose another file." in line
    line = refused(2, *train("--log", tmp_path / "run", "--report", tmp_path / "out" / ".." / "run"))
    assert f"--log and --report are both {tmp_path / 'run'}. Give each a file of its own." in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("option", ["--output", "--checkpoint-dir"])
def test_a_read_only_disk(
    train: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Is told before the first step, not when an hour of training is to be saved."""
    mkdir = os.mkdir

    def read_only(path: object, *rest: object) -> None:
        if "/frozen/" in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        mkdir(path, *rest)

    (tmp_path / "frozen").mkdir()
    before = snapshot(tmp_path)
    monkeypatch.setattr(store.os, "mkdir", read_only)
    monkeypatch.setattr("edgepeft.cli.commands.load", None)
    line = refused(1, *train(option, tmp_path / "frozen" / "deep" / "er"))
    assert "Read-only file system. The disk is read-only: write elsewhere; nothing was changed." in line
    assert snapshot(tmp_path) == before


def test_a_checkpoint_folder_that_cannot_be_written(
    train: Callable[..., list[object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is there is looked at itself, not the folder that it is in."""
    mkdir = os.mkdir

    def somebody_elses(path: object, *rest: object) -> None:
        if "/theirs/" in str(path):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        mkdir(path, *rest)

    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(store.os, "mkdir", somebody_elses)
    monkeypatch.setattr("edgepeft.cli.commands.load", None)
    line = refused(1, *train("--checkpoint-dir", tmp_path / "theirs"))
    assert "Permission denied. Write to a folder that you own; nothing was changed." in line


def test_a_checkpoint_folder_that_is_none(train: Callable[..., list[object]], tmp_path: Path) -> None:
    """A file in its place is told before the first step."""
    (tmp_path / "run").write_text("mine")
    line = refused(1, *train("--checkpoint-dir", tmp_path / "run"))
    assert "cannot be written: Not a directory" in line
    assert (tmp_path / "run").read_text() == "mine"


def test_a_place_below_a_link_to_nothing(tmp_path: Path) -> None:
    """No folder can be made there, so the place is refused at once."""
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        store.check_writable(tmp_path / "link" / "out")


@pytest.mark.stock("cannot write one of the formats, which came after it")
def test_merge_and_export_on_a_read_only_disk(
    handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same line from each command that writes."""
    bundle, output = handmade / "chat", tmp_path / "out"
    adapter = bundle / "adapters" / "initial"

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store.os, "mkdir", read_only)
    monkeypatch.setattr(store.os, "open", read_only_for_writing(os.open))
    commands = [["merge", adapter, adapter, "--output", output]]
    commands += [
        ["export", bundle, adapter, output, "--format", kind] for kind in ("peft", "onnx_adapter", "onnx")
    ]
    for command in commands:
        assert "The disk is read-only: write elsewhere" in refused(1, "adapter", *command)
    assert snapshot(tmp_path) == {}


def read_only_for_writing(real: Callable[..., int]) -> Callable[..., int]:
    """`os.open` as a read-only disk has it."""

    def opened(path: object, flags: int, *rest: object, **more: object) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *rest, **more)

    return opened


def test_the_place_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    """No folder above the output is made before there is something to write."""
    store.check_writable(tmp_path / "a" / "b" / "c")
    assert snapshot(tmp_path) == {}


def test_a_failure_that_nobody_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line even then, with the way to more; --debug shows it, in groups of commands too."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("edgepeft.cli.adapter.Adapter.load", broken)
    line = refused(1, "adapter", "show", ".")
    assert "ZeroDivisionError: division by zero. Run `edgepeft --debug ...` for its traceback." in line
    assert isinstance(run("--debug", "adapter", "show", ".").exception, ZeroDivisionError)


def test_what_a_foreign_file_put_into_a_message(train: Callable[..., list[object]], tmp_path: Path) -> None:
    """A key of a data file neither breaks the line nor steers the terminal."""
    data = tmp_path / "odd.jsonl"
    data.write_text(json.dumps({"a\nb\x1b[31m": "c"}) + "\n")
    line = refused(1, *train("--data", data))
    assert r"odd.jsonl:1: has the keys a\nb\x1b[31m; expected" in line


def test_any_error_is_one_clean_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of ours, and what was added to it on its way."""

    def broken(*_: object) -> None:
        error = StorageError("a\nb\x1b[2J")
        error.add_note("Step 3 is saved.")
        raise error

    monkeypatch.setattr("edgepeft.cli.adapter.Adapter.load", broken)
    assert "Error: a b?[2J Step 3 is saved." in refused(1, "adapter", "show", ".")


def test_an_error_names_options(train: Callable[..., list[object]], tmp_path: Path) -> None:
    """As they were typed; a part of a path is left alone."""
    assert "--early-stopping-patience needs --evaluate-every, " in refused(
        2, *train("--early-stopping-patience", 2)
    )
    assert "--resume needs --checkpoint-dir" in refused(2, *train("--resume"))
    assert "Error: --epochs and --max-steps are both given" in refused(2, *train("--epochs", 1))
    for option, value in (("--seed", -1), ("--momentum", 2), ("--nice", 20), ("--threads", 999)):
        assert f"Error: {option} is {value}" in refused(2, *train(option, value))
    run = ["--checkpoint-dir", tmp_path / "run"]
    refused_again = [*train(*run), "--max-steps", 1]
    assert CliRunner().invoke(main, list(map(str, refused_again))).exit_code == 0
    assert "Go on with it by --resume, delete it" in refused(1, *refused_again)
    line = refused(1, *train(*run, "--resume", "--seed", 1))
    assert "checkpoint.safetensors: was made with --seed=0, got 1. Resume with the same" in line
    place = tmp_path / "batch_size"
    place.mkdir()
    line = refused(1, "info", place)
    assert str(place) in line
    assert "--batch-size" not in line


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            "is an adapter, not a bundle. Give the bundle",
        ),
        (["config.json", "model.safetensors"], "is a model of Hugging Face, not a bundle. Export it first"),
        (["notes.txt"], "manifest.json"),
    ],
)
def test_a_folder_of_another_kind(tmp_path: Path, files: list[str], told: str) -> None:
    """What it is, and what to do with it."""
    for file in files:
        (tmp_path / file).write_text("{}")
    line = refused(1, "info", tmp_path)
    assert str(tmp_path) in line
    assert told in line


def test_a_bundle_where_an_adapter_is_wanted(train: Callable[..., list[object]], handmade: Path) -> None:
    """The bundle's own adapter needs no option."""
    assert "is a bundle, not an adapter" in refused(1, *train("--adapter", handmade / "chat"))


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("config.json", "is a model of Hugging Face, not an adapter. Export it: edgepeft-export hf."),
        (
            "notes.txt",
            "is no adapter's folder: it has neither adapter_config.json nor adapter_model.safetensors.",
        ),
        ("adapter_model.safetensors", "adapter_config.json: cannot be opened"),
    ],
)
def test_an_adapter_that_is_another_folder(
    train: Callable[..., list[object]], tmp_path: Path, file: str, told: str
) -> None:
    """What it is; of an adapter that lacks a file, which."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / file).write_text("{}")
    assert told in refused(1, *train("--adapter", tmp_path / "mine"))


def test_rows_that_are_cut_in_an_evaluation(handmade: Path, tmp_path: Path) -> None:
    """Refused as in training, or cut and counted."""
    data = tmp_path / "facts.jsonl"
    data.write_text(json.dumps({"text": "a" * 60}) + "\n" + json.dumps({"text": "me."}) + "\n")
    assert "--max-length" in refused(1, "evaluate", handmade / "chat", "--data", data)
    done = run("evaluate", handmade / "chat", "--data", data, "--max-length", 40)
    assert (done.exit_code, done.stderr) == (0, "1 rows are cut to 40\n")
    assert done.stdout.startswith("loss ")


def test_classes_for_a_model_that_has_none(train: Callable[..., list[object]], handmade: Path) -> None:
    """The option is for a classifier, and the line says so."""
    line = refused(2, *train("--labels", "spam,work"))
    told = f"--labels names a classifier's classes; {handmade / 'chat'} is none, its task is causal_lm. Leave it out."
    assert told in line


def test_an_unknown_class_where_there_are_no_labels_to_give(handmade: Path, tmp_path: Path) -> None:
    """`evaluate` has no such option; the line names the command that has."""
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"text": "a", "label": "zzzz"}) + "\n")
    line = refused(1, "evaluate", handmade / "classifier", "--data", data)
    assert "For classes of your own: train --labels, or with_labels." in line
