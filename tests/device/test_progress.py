"""What a user sees of a run."""

import io
import itertools
import re
from collections.abc import Callable

import pytest
from handmade_bundles import HANDMADE
from rich.console import Console

import edgepeft
from edgepeft.engines.base import StepResult
from edgepeft.errors import ArgumentError, DataError, EngineError
from edgepeft.progress import LineProgress, TerminalProgress, pace, progress

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def test_a_pipe_gets_about_twenty_plain_lines() -> None:
    """No control characters; the last step is always told, and so is each evaluation."""
    stream, clock = io.StringIO(), itertools.count(step=2)
    shown = LineProgress(Console(file=stream), clock=lambda: next(clock))
    shown.on_train_begin(1000, 1)
    for step in range(1, 1001):
        shown.on_step_end(step, StepResult(2.0, 1.0, 1.0, 0.1))
    shown.on_evaluate(1000, 1.5)
    shown.close()
    lines = stream.getvalue().splitlines()
    assert 15 <= len(lines) <= 25
    assert lines[0] == "step 50/1000 loss 2.0000, 25.0 steps/s, 0:00:38 left"
    assert lines[-2:] == [
        "step 1000/1000 loss 2.0000, 25.0 steps/s, 0:00:00 left",
        "step 1000/1000 held-out loss 1.5000",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_shows_loss_rate_and_time_left() -> None:
    """In 80 columns, nothing cut off; a resumed run counts its own steps."""
    stream, clock = io.StringIO(), itertools.count()
    console = Console(file=stream, force_terminal=True, width=80)
    shown = TerminalProgress(console, clock=lambda: next(clock) * 2.5)
    shown.on_train_begin(1000, 401)
    shown.on_step_end(401, StepResult(12.34567, 1.0, 1.0, 0.1))
    shown.on_evaluate(401, 11.5)
    shown.on_step_end(402, StepResult(12.25, 1.0, 1.0, 0.1))
    shown.close()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()[-1]
    assert "402/1000 loss 12.250 (11.500 held-out) 2.5 s/step, 0:24:55 left" in " ".join(last.split())


@pytest.mark.parametrize("terminal", [True, False])
def test_the_first_evaluation_is_no_step(*, terminal: bool) -> None:
    """It can take a hundred times as long as a step, and comes once; a later one is part of the pace."""
    stream, now = io.StringIO(), [0.0]
    shown = (TerminalProgress if terminal else LineProgress)(
        Console(file=stream, force_terminal=terminal, width=80), clock=lambda: now[0]
    )
    shown.on_train_begin(10, 1)
    now[0] = 100.0
    shown.on_evaluate(0, 3.0)
    now[0] = 102.0
    shown.on_step_end(1, StepResult(2.0, 1.0, 1.0, 0.1))
    now[0] = 104.0
    shown.on_evaluate(1, 2.5)
    shown.on_step_end(2, StepResult(2.0, 1.0, 1.0, 0.1))
    shown.close()
    assert "2.0 s/step, 0:00:16 left" in stream.getvalue()


@pytest.mark.parametrize(
    ("steps", "seconds", "left", "told"),
    [
        (0, 5.0, 10, ""),
        (3, 0.0, 10, ""),
        (10, 4.0, 100, "2.5 steps/s, 0:00:40 left"),
        (1, 90.0, 1000, "90.0 s/step, 1 day, 1:00:00 left"),
    ],
)
def test_the_pace(steps: int, seconds: float, left: int, told: str) -> None:
    """Steps a second, or seconds a step where those are more."""
    assert pace(steps, seconds, left) == told


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


@pytest.mark.parametrize("terminal", [True, False])
def test_a_signal_is_answered_with_what_is_true(*, terminal: bool) -> None:
    """Once no step runs, as while the report asks its questions, none is waited for."""
    step = StepResult(2.0, 1.0, 1.0, 0.1)

    def answered(*before: Callable[[edgepeft.Callback], None], breaks_off: bool = True) -> str:
        stream = io.StringIO()
        shown = progress(
            Console(file=stream, width=80, force_terminal=terminal, color_system=None), breaks_off=breaks_off
        )
        shown.on_train_begin(2, 1)
        for call in before:
            call(shown)
        shown.on_signal()
        shown.close()
        return stream.getvalue()

    running = "stopping after this step; a second Ctrl-C ends at once\n"
    later, ended = running.replace("at once", "after this batch"), "stopping; a second Ctrl-C ends at once\n"
    assert running in answered()
    assert later in answered(breaks_off=False)
    assert running in answered(lambda shown: shown.on_step_end(1, step))
    assert ended in answered(lambda shown: shown.on_step_end(2, step))
    assert ended in answered(lambda shown: shown.on_step_end(2, step), breaks_off=False)
    assert ended in answered(lambda shown: shown.on_train_end(result()))


def result() -> edgepeft.TrainingResult:
    """Of a run whose time was up."""
    adapter = edgepeft.load(HANDMADE / "chat").adapter
    return edgepeft.TrainingResult(adapter, [], [], 1, 1.0, 1.0, 1.0, 1, "max_seconds", 0, 1, 1)
