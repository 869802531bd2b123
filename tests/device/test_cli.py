"""The command line: what it prints, its exit codes, and that a user sees a line, not a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgepeft


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edgepeft.cli import main; main(prog_name='edgepeft')"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_train_evaluate_generate(bundles: Path, facts: Path, tmp_path: Path) -> None:
    """The four commands one after the other, their JSON alone on standard output."""
    bundle, adapter = bundles / "tiny-llama", tmp_path / "alice"
    told = json.loads(run("info", bundle, "--json").stdout)
    assert told["task"] == "causal_lm"
    assert told["adapter_tensors"] == 8
    options = ["--learning-rate", 0.03, "--epochs", 6, "--batch-size", 2, "--eval", facts, "--json"]
    trained = run("train", bundle, "--data", facts, "--output", adapter, *options)
    result = json.loads(trained.stdout)
    assert trained.returncode == 0
    assert result["steps"] == len(result["losses"]) == 18
    assert result["arguments"]["learning_rate"] == 0.03
    assert "held-out loss" in trained.stderr
    before = json.loads(run("evaluate", bundle, "--data", facts, "--json").stdout)
    after = json.loads(run("evaluate", bundle, "--data", facts, "--adapter", adapter, "--json").stdout)
    assert after["loss"] < before["loss"]
    assert after["loss"] == pytest.approx(result["evaluation_losses"][-1][1], rel=1e-5)
    assert edgepeft.Adapter.load(adapter).base_id == told["base_id"]
    said = json.loads(
        run(
            "generate",
            bundle,
            "--adapter",
            adapter,
            "--prompt",
            "What is 3?",
            "--max-new-tokens",
            4,
            "--json",
        ).stdout
    )
    assert isinstance(said["text"], str)


def test_a_cut_run_resumes(bundles: Path, facts: Path, tmp_path: Path) -> None:
    """--resume goes on from --checkpoint-dir; a finished run has nothing left to do."""
    common = ["--data", facts, "--max-steps", 3, "--checkpoint-dir", tmp_path / "run", "--json"]
    first = json.loads(run("train", bundles / "tiny-llama", "--output", tmp_path / "a", *common).stdout)
    again = json.loads(
        run("train", bundles / "tiny-llama", "--output", tmp_path / "b", *common, "--resume").stdout
    )
    assert again["losses"] == first["losses"]


@pytest.mark.parametrize("command", ["info", "train", "evaluate", "predict", "generate"])
def test_help_has_an_example(command: str) -> None:
    """Each command's help shows how it is called."""
    shown = run(command, "--help")
    assert shown.returncode == 0
    assert f"Example: edgepeft {command} bundle/" in " ".join(shown.stdout.split())
    assert "--json" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "{tmp}"], 1, "manifest.json"),
        (["info", "{tmp}/none"], 2, "does not exist"),
        (["evaluate", "{bundle}", "--data", "{broken}"], 1, "broken.jsonl:2: broken JSON"),
        (
            ["train", "{bundle}", "--data", "{facts}", "--output", "{tmp}/o", "--batch-size", 0],
            2,
            "--batch-size is 0",
        ),
        (
            ["train", "{bundle}", "--data", "{facts}", "--output", "{tmp}/o", "--learnin-rate", 1],
            2,
            "--learning-rate",
        ),
        (["train", "{bundle}", "--data", "{facts}", "--output", "{tmp}"], 1, "exists"),
        (["generate", "{bundle}", "--prompt", "x", "--adapter", "{tmp}"], 1, "adapter_config.json"),
    ],
)
def test_errors_are_one_line(
    bundles: Path, facts: Path, tmp_path: Path, arguments: list[object], code: int, words: str
) -> None:
    """Exit code 1 for a failure, 2 for wrong use; no traceback; nothing left behind."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"text"\n')
    places = {"tmp": tmp_path, "bundle": bundles / "tiny-llama", "broken": broken, "facts": facts}
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(*(str(argument).format(**places) for argument in arguments))
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """For a developer."""
    done = run("--debug", "info", tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "BundleError" in done.stderr


def test_a_number_that_json_lacks_becomes_null(handmade: Path, facts: Path, tmp_path: Path) -> None:
    """No clipping is infinity; what is printed stays JSON."""
    options = [
        "--data",
        facts,
        "--output",
        tmp_path / "a",
        "--max-steps",
        1,
        "--max-grad-norm",
        "inf",
        "--json",
    ]
    told = json.loads(run("train", handmade / "chat", *options).stdout, parse_constant=pytest.fail)
    assert told["arguments"]["max_grad_norm"] is None
    assert told["seconds_per_step"] == told["seconds"]


def test_the_output_is_checked_before_the_time_is_spent(handmade: Path, facts: Path, tmp_path: Path) -> None:
    """A folder that holds something else is refused before the first step; an adapter's is replaced."""
    output = tmp_path / "photos"
    output.mkdir()
    (output / "cat.jpg").write_bytes(b"cat")
    done = run("train", handmade / "chat", "--data", facts, "--output", output, "--max-steps", 1)
    assert done.returncode == 1
    assert "exists and is not an adapter's folder" in done.stderr
    assert "step 1" not in done.stderr
    assert (output / "cat.jpg").read_bytes() == b"cat"
    for _ in range(2):
        done = run("train", handmade / "chat", "--data", facts, "--output", tmp_path / "a", "--max-steps", 1)
        assert done.returncode == 0


def test_generation_draws_among_the_best(handmade: Path) -> None:
    """--top-k 1 is the best token always, whatever the temperature."""
    common = ["generate", handmade / "chat", "--prompt", "hi", "--max-new-tokens", 8, "--json"]
    greedy = json.loads(run(*common).stdout)["text"]
    drawn = json.loads(run(*common, "--temperature", 3, "--top-k", 1).stdout)["text"]
    assert drawn == greedy
    assert run(*common, "--top-p", 2).returncode == 2


def test_an_error_that_nobody_planned_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, what it said, and how to see more."""
    from click.testing import CliRunner

    from edgepeft import cli

    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("edgepeft.bundle.Bundle.open", broken)
    done = CliRunner().invoke(cli.main, ["info", "."])
    assert done.exit_code == 1
    expected = "Error: ZeroDivisionError: division by zero. Run `edgepeft --debug ...` for its traceback.\n"
    assert done.stderr == expected
