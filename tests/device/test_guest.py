"""A training on a machine that is not its own: pauses, priority, memory."""

import io
import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_machine import hot, on_battery, throttled
from rich.console import Console
from training_runs import same

import edgepeft
from edgepeft import board, cli, estimate, guest
from edgepeft.board import Battery, Sensors
from edgepeft.engines.base import StepResult
from edgepeft.errors import ArgumentError
from edgepeft.progress import TerminalProgress, progress

#: Steps of a whole run, and the one after which the machine is unwell.
STEPS, AT = 5, 2

#: What makes a machine unwell, what makes it well again, and what is told.
TROUBLES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "heat": (lambda root: hot(root, 81), lambda root: hot(root, 60), "too hot: 81.0 °C, at most 80 °C"),
    "under-voltage": (
        lambda root: throttled(root, 0x50001),
        lambda root: throttled(root, 0x50000),
        "slowed down by the board: under-voltage",
    ),
    "throttled": (
        lambda root: throttled(root, 0x6),
        lambda root: throttled(root, 0),
        "slowed down by the board: frequency capped, throttled",
    ),
    "battery": (
        lambda root: on_battery(root, 19),
        lambda root: on_battery(root, 19, "Charging"),
        "on battery: 19 % left, at least 20 %",
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that is well."""
    folder = tmp_path / "machine"
    hot(folder, 50)
    throttled(folder, 0)
    on_battery(folder, 90)
    return folder


class Trouble(edgepeft.Callback):
    """Makes the machine unwell after a step, and well, or something else, as the run begins to wait."""

    def __init__(self, begin: Callable[[], object], end: Callable[[], object], at: int = AT) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._begin, self._end, self._at = begin, end, at

    def on_step_end(self, step: int, result: StepResult) -> None:
        del result
        self.told.append(("step", step))
        if step == self._at:
            self._begin()

    def on_pause(self, step: int, reason: str) -> None:
        self.told.append(("pause", step, reason))
        self._end()

    def on_resume(self, step: int, seconds: float) -> None:
        self.told.append(("resume", step))
        assert seconds >= 0


def trainer(handmade: Path) -> edgepeft.Trainer:
    settings = edgepeft.TrainingArguments(max_steps=STEPS, learning_rate=0.05, batch_size=2)
    return edgepeft.Trainer(edgepeft.load(handmade / "chat"), settings)


ROWS = [{"text": text} for text in ("hello there.", "who is it?", "a friend.")]


@pytest.mark.parametrize("name", TROUBLES)
def test_a_run_pauses_within_a_step_and_ends_as_if_nothing_had_been(
    handmade: Path, root: Path, name: str
) -> None:
    """The same adapter bit for bit; every pause is told with its reason."""
    begin, end, reason = TROUBLES[name]
    plain = trainer(handmade).fit(ROWS)
    watch = Trouble(lambda: begin(root), lambda: end(root))
    result = trainer(handmade).fit(ROWS, callbacks=[watch], guest=edgepeft.Guest(root=root))
    assert watch.told == [
        ("step", 1),
        ("step", 2),
        ("pause", 2, reason),
        ("resume", 2),
        ("step", 3),
        ("step", 4),
        ("step", 5),
    ]
    assert same(plain.adapter, result.adapter)
    assert plain.losses == result.losses
    assert (plain.paused_seconds, result.stop_reason) == (0, "finished")


def test_a_machine_that_is_unwell_from_the_start(handmade: Path, root: Path) -> None:
    """Not one step is made before it is well; nor is the evaluation before it."""
    hot(root, 99)
    told: list[str] = []
    watch = Trouble(lambda: None, lambda: hot(root, 20))
    watch.on_evaluate = lambda *_: told.append(str(watch.told))
    trainer(handmade).fit(ROWS, ROWS, callbacks=[watch], guest=edgepeft.Guest(root=root))
    assert watch.told[:2] == [("pause", 0, "too hot: 99.0 °C, at most 80 °C"), ("resume", 0)]
    assert told[0] == str(watch.told[:2])


def test_a_sensor_that_comes_later(handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found: they are looked for again now and then."""
    monkeypatch.setattr("edgepeft.guest._FIND_SECONDS", 0.0)
    watch = Trouble(lambda: hot(tmp_path, 81), lambda: hot(tmp_path, 50))
    trainer(handmade).fit(ROWS, callbacks=[watch], guest=edgepeft.Guest(root=tmp_path))
    assert ("resume", AT) in watch.told


def test_without_a_guest_nothing_is_heeded(handmade: Path, root: Path) -> None:
    """A program that does not ask for it is never paused."""
    hot(root, 99)
    watch = Trouble(lambda: None, lambda: None)
    trainer(handmade).fit(ROWS, callbacks=[watch])
    assert [kind for kind, *_ in watch.told] == ["step"] * STEPS


@pytest.mark.parametrize(
    ("sensors", "paused", "reason"),
    [
        (Sensors(None, None, None, None), False, None),
        (Sensors(80.0, (), Battery(20.0, discharging=True), None), False, None),
        (Sensors(76.0, None, None, None), False, None),
        (Sensors(76.0, None, None, None), True, "too hot: 76.0 °C, at most 75 °C"),
        (Sensors(75.0, None, None, None), True, None),
        (Sensors(None, None, Battery(5.0, discharging=False), None), False, None),
        (
            Sensors(90.0, ("throttled",), Battery(5.0, discharging=True), 3.0),
            True,
            "too hot: 90.0 °C, at most 75 °C; slowed down by the board: throttled; on battery: 5 % left, at least 20 %",
        ),
    ],
)
def test_the_rules(sensors: Sensors, paused: bool, reason: str | None) -> None:  # noqa: FBT001
    """A paused run waits for some degrees less; all reasons are told."""
    assert guest.reason_to_pause(edgepeft.Guest(), sensors, paused=paused) == reason


def test_limits_that_mean_never() -> None:
    """Infinity, and a battery that may be empty."""
    never = edgepeft.Guest(max_temperature=math.inf, min_battery=0)
    assert (
        guest.reason_to_pause(never, Sensors(120.0, (), Battery(0.0, discharging=True), None), paused=True)
        is None
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_temperature", math.nan),
        ("max_temperature", 0),
        ("min_battery", 101),
        ("min_battery", -1),
        ("nice", -1),
        ("nice", 20),
        ("nice", 1.5),
        ("max_memory", 0),
        ("max_memory", "2 GB"),
    ],
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    """Named, with the range."""
    with pytest.raises(ArgumentError, match=f"{setting} is .*; expected"):
        edgepeft.Guest(**{setting: value})


def test_the_sensors_are_read_now_and_then(
    handmade: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause ends when the machine has cooled down by some degrees, and is counted apart from the training."""
    clock = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        hot(root, 81 - (clock - 1000) / 2)  # half a degree a second

    monkeypatch.setattr("edgepeft.guest.time.sleep", sleep)
    monkeypatch.setattr("edgepeft.guest.time.monotonic", lambda: clock)
    watch = Trouble(lambda: hot(root, 81), lambda: None)
    settings = edgepeft.TrainingArguments(max_steps=STEPS, max_seconds=11, batch_size=2)
    model = edgepeft.load(handmade / "chat")
    result = edgepeft.Trainer(model, settings).fit(ROWS, callbacks=[watch], guest=edgepeft.Guest(root=root))
    assert 12 <= result.paused_seconds <= 12 + guest.POLL_SECONDS
    assert (result.steps, result.stop_reason) == (STEPS, "finished"), "a pause is no training time"
    assert result.seconds < 10


def test_a_paused_run_can_be_stopped(handmade: Path, root: Path, tmp_path: Path) -> None:
    """By `stop` and by a signal; what was learned is kept, and a run that goes on ends like one that never paused."""
    plain = trainer(handmade).fit(ROWS)
    for number, signalled in enumerate((False, True)):
        training = trainer(handmade)
        folder = tmp_path / str(number)
        hot(root, 50)
        end = (lambda: signal.raise_signal(signal.SIGTERM)) if signalled else training.stop
        watch = Trouble(lambda: hot(root, 81), end)
        result = training.fit(ROWS, callbacks=[watch], checkpoint_dir=folder, guest=edgepeft.Guest(root=root))
        assert (result.stop_reason, result.steps) == ("stopped", AT)
        assert [kind for kind, *_ in watch.told][-2:] == ["pause", "resume"]
        again = trainer(handmade).fit(ROWS, checkpoint_dir=folder, resume=True)
        assert same(again.adapter, plain.adapter)


def test_a_signal_wakes_a_run_that_waits(handmade: Path, root: Path) -> None:
    """It does not wait for the sensors: the machine stays hot."""
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    watch = Trouble(lambda: hot(root, 81), timer.start)
    result = trainer(handmade).fit(ROWS, callbacks=[watch], guest=edgepeft.Guest(root=root))
    assert (result.stop_reason, result.steps) == ("stopped", AT)
    assert result.paused_seconds > 0.2


def test_a_power_cut_in_a_pause_loses_no_step(handmade: Path, root: Path, tmp_path: Path) -> None:
    """The checkpoint is written as a pause begins: there was none before."""
    path = tmp_path / "run" / "checkpoint.safetensors"
    seen: list[bool] = []

    def end() -> None:
        seen.append(path.exists())
        on_battery(root, 19, "Charging")

    watch = Trouble(lambda: on_battery(root, 19), end)
    folder = tmp_path / "run"
    trainer(handmade).fit(ROWS, callbacks=[watch], checkpoint_dir=folder, guest=edgepeft.Guest(root=root))
    assert seen == [True]


@pytest.mark.parametrize("terminal", [False, True])
def test_waiting_costs_next_to_nothing(handmade: Path, root: Path, terminal: bool) -> None:  # noqa: FBT001
    """Less than a hundredth of a core: the process's own time in a pause, threads and the bar included."""
    spent: list[float] = []

    class Watch(Trouble):
        def on_pause(self, step: int, reason: str) -> None:
            super().on_pause(step, reason)
            spent.append(time.process_time())

        def on_resume(self, step: int, seconds: float) -> None:
            super().on_resume(step, seconds)
            spent.append(time.process_time())

    timer = threading.Timer(12.0, lambda: hot(root, 50))
    shown = progress(Console(file=io.StringIO(), force_terminal=terminal, width=100))
    watch = Watch(lambda: hot(root, 81), timer.start)
    result = trainer(handmade).fit(ROWS, callbacks=[shown, watch], guest=edgepeft.Guest(root=root))
    assert result.paused_seconds > 5 * guest.POLL_SECONDS
    before, after = spent
    assert (after - before) / result.paused_seconds < 0.01


def in_a_thread(run: Callable[[], None]) -> None:
    """Runs something in a thread of its own, whose priority goes with it."""
    failed: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_priority_is_low_while_it_trains(handmade: Path, root: Path) -> None:
    """Of the thread that trains only, and of those that it starts; a lower one than asked for stays."""
    seen: list[int] = []

    class Watch(edgepeft.Callback):
        def on_step_end(self, step: int, result: StepResult) -> None:
            del step, result
            started: list[int] = []
            child = threading.Thread(target=lambda: started.append(priority()))
            child.start()
            child.join()
            seen.extend((priority(), *started))

    def run() -> None:
        first = priority()
        trainer(handmade).fit(ROWS, callbacks=[Watch()], guest=edgepeft.Guest(root=root, nice=first + 3))
        assert set(seen) == {first + 3}
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), first + 5)
        seen.clear()
        trainer(handmade).fit(ROWS, callbacks=[Watch()], guest=edgepeft.Guest(root=root, nice=first + 3))
        assert set(seen) == {first + 5}
        assert priority() == first + 5

    before = priority()
    in_a_thread(run)
    assert priority() == before


def test_the_priority_comes_back_where_the_system_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it does not, nothing fails."""
    asked: list[int] = []

    def refuse(kind: int, thread: int, nice: int) -> None:
        del kind, thread
        asked.append(nice)
        raise PermissionError

    monkeypatch.setattr("edgepeft.guest.os.setpriority", refuse)
    monkeypatch.setattr("edgepeft.guest.os.getpriority", lambda *_: 1)
    with guest.low_priority(7):
        assert asked == [7]
    assert asked == [7, 1]


def test_a_bundle_that_says_nothing_about_memory(handmade: Path, root: Path) -> None:
    """Is trained as it is."""
    assert trainer(handmade).fit(ROWS, guest=edgepeft.Guest(root=root, max_memory=1)).steps == STEPS


@pytest.fixture
def command(
    tmp_path: Path, root: Path, handmade: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`edgepeft train` on the machine that is made up."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    real = board.find_sensors
    monkeypatch.setattr("edgepeft.guest.board.find_sensors", lambda _: real(root))

    def run(*options: object) -> Any:
        fixed = ["train", handmade / "chat", "--data", data, "--output", tmp_path / "alice", "--max-steps", 3]
        return CliRunner().invoke(cli.main, [*map(str, fixed), *map(str, options)])

    return run


def test_the_command_is_a_good_guest(
    command: Callable[..., Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being asked: a line for the pause and one for its end, the reason in the log, the time in the result."""
    hot(root, 81)
    monkeypatch.setattr("edgepeft.guest.time.sleep", lambda _: hot(root, 40))
    monkeypatch.setattr("edgepeft.guest.POLL_SECONDS", 0.01)
    done = command("--log", tmp_path / "log.jsonl", "--json")
    assert done.exit_code == 0, done.stderr
    assert "paused after step 0: too hot: 81.0 °C, at most 80 °C\n" in done.stderr
    assert re.search(r"\non again after step 0, [\d.]+ m?s later\n", done.stderr)
    assert json.loads(done.stdout)["paused_seconds"] > 0
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in told] == ["begin", "pause", "resume", "step", "step", "step", "end"]
    assert told[1]["reason"] == "too hot: 81.0 °C, at most 80 °C"
    assert told[2]["seconds"] == pytest.approx(told[-1]["paused_seconds"])
    hot(root, 81)
    assert "peak memory" in (line := command().stdout)
    assert re.search(r", paused for [\d.]+ m?s\b", line)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-temperature", "nan"], "--max-temperature is nan; expected more than 0"),
        (["--min-battery", "200"], "--min-battery is 200.0; expected at least 0 and at most 100"),
        (["--nice", "20"], "nice is 20; expected at least 0 and at most 19"),
        (["--max-memory", "0"], "--max-memory is 0; expected megabytes, more than 0"),
        (["--max-memory", "nan"], "--max-memory is nan; expected megabytes, more than 0"),
    ],
)
def test_options_out_of_range(command: Callable[..., Any], options: list[str], told: str) -> None:
    """Wrong use, in a line."""
    done = command(*options)
    assert done.exit_code == 2
    assert told in done.stderr


def test_the_command_shrinks_and_refuses(bundles: Path, tmp_path: Path) -> None:
    """With the options' names."""
    bundle, data = bundles / "tiny-llama", tmp_path / "rows"
    data.mkdir()
    for name in ("input_ids", "attention_mask", "labels"):
        np.save(data / f"{name}.npy", np.ones((8, 100), np.int64))
    needed = {n: estimate.training_memory(edgepeft.Bundle.open(bundle).manifest, n, 100) for n in (1, 4, 8)}

    def run(megabytes: float) -> Any:
        fixed = ["train", bundle, "--data", data, "--output", tmp_path / "alice", "--max-steps", 1]
        options = ["--batch-size", 8, "--max-memory", megabytes, "--log", tmp_path / "log.jsonl"]
        return CliRunner().invoke(cli.main, [*map(str, fixed), *map(str, options)])

    assert needed[1] is not None
    assert needed[4] is not None
    done = run(needed[4].total / 1e6 + 0.001)
    assert done.exit_code == 0, done.stderr
    assert re.search(
        r"the batch would take [\d.]+ MB of memory, of [\d.]+ MB: 4 of its rows are run at once, for the same update\n",
        done.stderr,
    )
    shrink = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1])
    assert (shrink["event"], shrink["rows"]) == ("shrink", 4)
    done = run(needed[1].total / 1e6 - 1)
    assert done.exit_code == 1
    assert "Lower --max-length, end other programs, or raise --max-memory." in done.stderr


def test_a_terminal_is_told_above_its_bar() -> None:
    """And the pause is not in the pace."""
    stream, clock = io.StringIO(), iter([0.0, 0.0, 10.0, 112.0, 122.0])
    shown = TerminalProgress(Console(file=stream, force_terminal=True, width=100), clock=lambda: next(clock))
    shown.on_train_begin(10, 1)
    shown.on_shrink(2, 3_000_000, 2_000_000)
    shown.on_step_end(1, StepResult(1.0, 1.0, 1.0, 0.1))
    shown.on_pause(1, "too hot")
    shown.on_resume(1, 92.0)
    shown.on_step_end(2, StepResult(1.0, 1.0, 1.0, 0.1))
    shown.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "would take 3.00 MB of memory, of 2.00 MB: 2 of its rows" in text
    assert "paused after step 1: too hot" in text
    assert "on again after step 1, 1 min 32 s later" in text
    assert "10.0 s/step" in text.splitlines()[-1]
