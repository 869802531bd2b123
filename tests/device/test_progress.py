"""What a user sees of a run."""

import io

import pytest
from rich.console import Console

import edgepeft
from edgepeft.engines.base import StepResult
from edgepeft.errors import ArgumentError, DataError, EngineError
from edgepeft.progress import progress

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def test_a_pipe_gets_about_twenty_plain_lines() -> None:
    """No control characters; the last step is always told, and so is each evaluation."""
    stream = io.StringIO()
    shown = progress(Console(file=stream))
    shown.on_train_begin(1000, 1)
    for step in range(1, 1001):
        shown.on_step_end(step, StepResult(2.0, 1.0, 1.0, 0.1))
    shown.on_evaluate(1000, 1.5)
    shown.close()
    lines = stream.getvalue().splitlines()
    assert 15 <= len(lines) <= 25
    assert lines[-2:] == ["step 1000/1000 loss 2.0000", "step 1000/1000 held-out loss 1.5000"]
    assert "\x1b" not in stream.getvalue()


def test_a_short_run_tells_every_step() -> None:
    """Three steps, three lines."""
    stream = io.StringIO()
    shown = progress(Console(file=stream))
    shown.on_train_begin(3, 1)
    for step in (1, 2, 3):
        shown.on_step_end(step, StepResult(1.0, 1.0, 1.0, 0.1))
    assert len(stream.getvalue().splitlines()) == 3


def test_the_terminal_gets_its_cursor_back_when_training_fails(handmade) -> None:
    """The bar hides the cursor; an error must not leave it hidden."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)

    class Fails(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            raise EngineError(f"step {step} failed after a loss of {result.loss}.")

    model = edgepeft.load(handmade / "chat")
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=3))
    with pytest.raises(EngineError):
        trainer.fit([{"text": "hello"}], callbacks=[progress(console), Fails()])
    told = stream.getvalue()
    assert HIDE_CURSOR in told
    assert told.rindex(SHOW_CURSOR) > told.rindex(HIDE_CURSOR)


def test_every_callback_is_closed_once_and_in_every_case(handmade) -> None:
    """After success and after a failure alike, also one before training began."""
    told: list[str] = []

    class Recorder(edgepeft.Callback):
        def on_train_end(self, result: edgepeft.TrainingResult) -> None:
            told.append(f"end {result.steps}")

        def close(self) -> None:
            told.append("close")

    model = edgepeft.load(handmade / "chat")
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=2))
    trainer.fit([{"text": "hello"}], callbacks=[Recorder()])
    assert told == ["end 2", "close"]
    with pytest.raises(DataError):
        trainer.fit([{"text": ""}], callbacks=[Recorder()])
    assert told == ["end 2", "close", "close"]
    with pytest.raises(ArgumentError):
        trainer.fit([{"text": "hello"}], callbacks=[Recorder()], resume=True)
    assert told == ["end 2", "close", "close", "close"]
