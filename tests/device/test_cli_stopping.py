"""`edgepeft train` that a signal stops, or whose log fails: what has been learned is kept and called what it is."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgepeft
from edgepeft import cli
from edgepeft.engines.base import StepResult
from edgepeft.report import samples

#: Steps of a whole run, and the one after which the signal comes.
STEPS, STOP = 5, 2

Train = Callable[..., Result]


class Signal(edgepeft.Callback):
    """In the place of the progress: a signal to this process."""

    def __init__(self, number: signal.Signals, at: int) -> None:
        self._number, self._at = number, at

    def on_train_begin(self, total_steps: int, first_step: int) -> None:
        del total_steps, first_step
        self._send(0)

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        self._send(step)

    def _send(self, step: int) -> None:
        if step == self._at:
            signal.raise_signal(self._number)


@pytest.fixture
def train(tmp_path: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """The command, with a signal after a step if one is wanted."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("hello.", "who is it?", "me.")))

    def run(*options: object, number: signal.Signals | None = None, at: int = STOP) -> Result:
        with monkeypatch.context() as patch:
            if number is not None:
                patch.setattr("edgepeft.cli.commands.progress", lambda _, **__: Signal(number, at))
            fixed = [
                "train",
                handmade / "chat",
                "--data",
                data,
                "--max-steps",
                STEPS,
                "--learning-rate",
                0.05,
            ]
            return CliRunner().invoke(cli.main, [*map(str, fixed), *map(str, options)])

    return run


def tensors(folder: Path) -> list[np.ndarray]:
    return [value for _, value in sorted(edgepeft.Adapter.load(folder).tensors.items())]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_learned_is_written_and_told(train: Train, tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 1, so that a script does not take it for done; no advice that cannot be followed."""
    done = train("--output", tmp_path / "alice", number=number)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{tmp_path / 'alice'}: ")
    assert f"after {STOP} of {STEPS} steps" in done.stdout
    assert done.stdout.endswith(" MB; stopped by a signal\n")
    assert "--resume" not in done.output
    assert "--checkpoint-dir" not in done.output
    assert tensors(tmp_path / "alice")


def test_an_adapter_that_is_there_is_not_replaced(train: Train, tmp_path: Path) -> None:
    """The half-trained one goes beside it; resumed to its end, the run replaces it as any does."""
    alice, aside = tmp_path / "alice", tmp_path / f"alice.stopped-at-{STOP}"
    assert train("--output", alice, "--seed", 1).exit_code == 0
    before = tensors(alice)
    options = ["--output", alice, "--checkpoint-dir", tmp_path / "run"]
    stopped = train(*options, number=signal.SIGTERM)
    assert stopped.exit_code == 1
    assert stopped.stdout.startswith(f"{aside}: ")
    told = f"; stopped by a signal; {alice} was left as it is; go on with --resume and the same --checkpoint-dir\n"
    assert stopped.stdout.endswith(told)
    assert all(map(np.array_equal, tensors(alice), before))
    assert not all(map(np.array_equal, tensors(aside), before))
    assert "replaced" not in stopped.stdout
    resumed = train(*options, "--resume")
    assert resumed.exit_code == 0
    assert resumed.stdout.endswith("; replaced the adapter that was there\n")
    whole = train("--output", tmp_path / "whole")
    assert whole.exit_code == 0
    assert "replaced" not in whole.stdout
    for replaced in (False, True):
        told = json.loads(train("--output", tmp_path / "json", "--json").stdout)
        assert (told["replaced"], told["tokens_per_second"] > 0) == (replaced, True)
    assert all(map(np.array_equal, tensors(alice), tensors(tmp_path / "whole")))


def test_a_second_stop_replaces_no_first(train: Train, tmp_path: Path) -> None:
    """Each has a name of its own."""
    assert train("--output", tmp_path / "alice").exit_code == 0
    for seed in (1, 2, 3):
        assert train("--output", tmp_path / "alice", "--seed", seed, number=signal.SIGTERM).exit_code == 1
    first = f"alice.stopped-at-{STOP}"
    assert sorted(path.name for path in tmp_path.glob("alice*")) == [
        "alice",
        first,
        f"{first}-2",
        f"{first}-3",
    ]
    assert not all(map(np.array_equal, tensors(tmp_path / first), tensors(tmp_path / f"{first}-2")))


def test_nothing_learned_is_nothing_written(train: Train, tmp_path: Path) -> None:
    """A signal before the first step leaves no adapter, and JSON says so."""
    done = train("--output", tmp_path / "alice", "--json", number=signal.SIGTERM, at=0)
    told = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (told["adapter"], told["steps"], told["stop_reason"]) == (None, 0, "stopped")
    assert (told["adapter_bytes"], told["replaced"]) == (None, False)
    assert told["tokens_per_second"] == 0, "null is for rows without tokens"
    assert not (tmp_path / "alice").exists()


def test_a_log_that_fails_at_the_end_does_not_take_the_adapter(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is told, and the adapter is there."""

    class Full(edgepeft.JsonLinesLog):
        def on_train_end(self, result: edgepeft.TrainingResult) -> None:
            raise edgepeft.EdgepeftError(f"no room to tell of step {result.steps}.")

    monkeypatch.setattr("edgepeft.cli.commands.JsonLinesLog", Full)
    done = train("--output", tmp_path / "alice", "--log", tmp_path / "log.jsonl")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith(f"Error: no room to tell of step {STEPS}.\n")
    assert tensors(tmp_path / "alice")


def test_a_log_that_fails_in_between_loses_no_step(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says that the step is saved, and the resumed run ends as one that did not fail."""

    class Full(edgepeft.JsonLinesLog):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del result
            if step == STOP:
                raise edgepeft.EdgepeftError("the disk is full.")

    options = ["--output", tmp_path / "alice", "--checkpoint-dir", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr("edgepeft.cli.commands.JsonLinesLog", Full)
        done = train(*options, "--log", tmp_path / "log.jsonl")
    assert (done.exit_code, done.stdout) == (1, "")
    told = f"Error: the disk is full. Step {STOP} is saved: --resume goes on from there.\n"
    assert done.stderr.endswith(told)
    assert not (tmp_path / "alice").exists()
    assert train(*options, "--resume").exit_code == 0
    assert train("--output", tmp_path / "whole").exit_code == 0
    assert all(map(np.array_equal, tensors(tmp_path / "alice"), tensors(tmp_path / "whole")))


def test_the_held_out_loss_that_is_told(train: Train, tmp_path: Path) -> None:
    """It is the written adapter's: of a stopped run that measured none, there is only the one before."""
    held_out = ["--eval", tmp_path / "data.jsonl"]
    stopped = train("--output", tmp_path / "alice", *held_out, number=signal.SIGTERM)
    assert "held-out loss" in stopped.stdout
    assert " at step 0, peak" in stopped.stdout
    assert "->" not in stopped.stdout
    told = json.loads(train("--output", tmp_path / "bob", *held_out, "--json", number=signal.SIGTERM).stdout)
    assert (told["adapter_step"], told["held_out_loss"]) == (STOP, None)
    whole = train("--output", tmp_path / "carol", *held_out).stdout
    assert re.search(r"held-out loss \d+\.\d{3} -> \d+\.\d{3}, peak", whole)


def test_the_best_ones_held_out_loss_is_told(train: Train, tmp_path: Path) -> None:
    """Another language than the one that is trained: the adapter of the lowest loss is written, and that is told."""
    report, held_out = tmp_path / "report.html", tmp_path / "heldout.jsonl"
    held_out.write_text(json.dumps({"text": "zzzz"}) + "\n")
    options = ["--learning-rate", 0.1, "--eval", held_out, "--evaluate-every", 1]
    options += ["--load-best-model-at-end", "--report", report]
    told = json.loads(train("--output", tmp_path / "alice", *options, "--json").stdout)
    losses = [loss for _, loss in told["evaluation_losses"]]
    best = losses.index(min(losses))
    assert 0 < best < STEPS
    assert (told["adapter_step"], told["held_out_loss"]) == (best, min(losses))
    line = train("--output", tmp_path / "alice", *options).stdout
    assert f"held-out loss {losses[0]:.3f} -> {min(losses):.3f} at step {best}, peak" in line
    assert f"{losses[0]:.4g} \u2192 {min(losses):.4g} at step {best}<" in report.read_text()


def test_the_end_is_told_before_the_report_is_made(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time was up: a signal while the report asks its questions is not answered with a step that runs."""
    ask = samples.ask

    def signalled(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return ask(*arguments)

    monkeypatch.setattr("edgepeft.report.samples.ask", signalled)
    done = train("--output", tmp_path / "alice", "--report", tmp_path / "a.html", "--max-seconds", 1e-9)
    assert "stopping; a second Ctrl-C ends at once" in done.stderr
    assert tensors(tmp_path / "alice")


@pytest.mark.parametrize("can", [True, False, None])
def test_what_a_second_ctrl_c_does_is_the_engines(
    train: Train, tmp_path: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch, *, can: bool | None
) -> None:
    """The installed one's too: onnxruntime-training does not let go of a batch."""

    class Signals(edgepeft.JsonLinesLog):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del result
            if step == STOP:
                signal.raise_signal(signal.SIGINT)

    engine = edgepeft.load(handmade / "chat").engine
    if can is not None:
        monkeypatch.setattr(type(engine), "breaks_off_steps", can)
    monkeypatch.setattr("edgepeft.cli.commands.JsonLinesLog", Signals)
    done = train("--output", tmp_path / "alice", "--log", tmp_path / "log.jsonl")
    told = "at once" if can is True or (can is None and engine.name == "stock") else "after this batch"
    assert f"stopping after this step; a second Ctrl-C ends {told}\n" in done.stderr


@pytest.mark.parametrize("ended", ["finished", "early_stopping"])
def test_a_run_that_was_finished_already(train: Train, tmp_path: Path, ended: str) -> None:
    """Resuming it writes its adapter again, and says that nothing was trained."""
    options = ["--checkpoint-dir", tmp_path / "run", "--eval", tmp_path / "data.jsonl"]
    if ended == "early_stopping":  # with such steps the loss never falls again
        options += ["--learning-rate", 100, "--evaluate-every", 1, "--early-stopping-patience", 1]
    told = "the run was finished already: nothing was trained now"
    first = train("--output", tmp_path / "first", *options)
    assert first.exit_code == 0
    assert told not in first.stdout
    again = train("--output", tmp_path / "again", *options, "--resume")
    assert again.exit_code == 0
    assert again.stdout.startswith(f"{tmp_path / 'again'}: ")
    assert again.stdout.endswith(f"; {told}\n")
    assert all(map(np.array_equal, tensors(tmp_path / "first"), tensors(tmp_path / "again")))
    facts = json.loads(train("--output", tmp_path / "again", *options, "--resume", "--json").stdout)
    assert facts["stop_reason"] == ended
    assert facts["first_step"] == facts["steps"] + 1


def test_a_resumed_run_is_no_finished_one(train: Train, tmp_path: Path) -> None:
    """There were steps left, and they were made."""
    options = ["--output", tmp_path / "alice", "--checkpoint-dir", tmp_path / "run"]
    assert train(*options, number=signal.SIGTERM).exit_code == 1
    facts = json.loads(train(*options, "--resume", "--json").stdout)
    assert (facts["first_step"], facts["steps"]) == (STOP + 1, STEPS)
    assert train("--output", tmp_path / "bob", "--max-seconds", 1e-9).stdout.endswith(
        "; stopped, the time was up\n"
    )
