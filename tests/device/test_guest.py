"""A training on a machine that is not its own: pauses, priority, memory."""

import io
import itertools
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_machine import hot, on_battery, throttled, write
from rich.console import Console
from training_runs import same

import edgepeft
from edgepeft import guest
from edgepeft.board import Battery, Sensors
from edgepeft.engines.base import StepResult
from edgepeft.errors import ArgumentError
from edgepeft.progress import progress

#: Steps of a whole run, and the one after which the machine is unwell.
STEPS, AT = 5, 2

#: What makes a machine unwell, what makes it well again, and what is told.
TROUBLES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "heat": (
        lambda root: hot(root, 81),
        lambda root: hot(root, 60),
        "too hot: 81.0 °C, at most 80 °C, on again at 75 °C",
    ),
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
        "on battery: 19 % left, at least 20 %, on again at 25 %",
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board that is well."""
    folder = write(tmp_path / "machine", {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4"})
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
    assert watch.told[:2] == [
        ("pause", 0, "too hot: 99.0 °C, at most 80 °C, on again at 75 °C"),
        ("resume", 0),
    ]
    assert told[0] == str(watch.told[:2])


def test_a_sensor_that_comes_later(handmade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found: they are looked for again now and then."""
    monkeypatch.setattr("edgepeft.guest._FIND_SECONDS", 0.0)
    watch = Trouble(lambda: hot(tmp_path, 96), lambda: hot(tmp_path, 50))
    trainer(handmade).fit(ROWS, callbacks=[watch], guest=edgepeft.Guest(root=tmp_path))
    assert ("resume", AT) in watch.told


def test_without_a_guest_nothing_is_heeded(handmade: Path, root: Path) -> None:
    """A program that does not ask for it is never paused."""
    hot(root, 99)
    watch = Trouble(lambda: None, lambda: None)
    trainer(handmade).fit(ROWS, callbacks=[watch])
    assert [kind for kind, *_ in watch.told] == ["step"] * STEPS


HEAT = {"heat": "too hot: 76.0 °C, at most 80 °C, on again at 75 °C"}
BATTERY = {"battery": "on battery: 24 % left, at least 20 %, on again at 25 %"}


@pytest.mark.parametrize(
    ("sensors", "waiting_for", "reasons"),
    [
        (Sensors(None, None, None, None), (), {}),
        (Sensors(80.0, (), Battery(20.0, discharging=True), None), (), {}),
        (Sensors(76.0, None, None, None), (), {}),
        (Sensors(76.0, None, None, None), ("heat",), HEAT),
        (Sensors(76.0, None, None, None), ("battery", "supply"), {}),
        (Sensors(75.0, None, None, None), ("heat",), {}),
        (Sensors(None, None, Battery(5.0, discharging=False), None), (), {}),
        (Sensors(None, None, Battery(24.0, discharging=True), None), ("heat",), {}),
        (Sensors(None, None, Battery(24.0, discharging=True), None), ("battery",), BATTERY),
        (Sensors(None, None, Battery(24.0, discharging=False), None), ("battery",), {}),
        (Sensors(None, None, Battery(25.0, discharging=True), None), ("battery",), {}),
        (
            Sensors(90.0, ("throttled",), Battery(5.0, discharging=True), 3.0),
            ("heat",),
            {
                "heat": "too hot: 90.0 °C, at most 80 °C, on again at 75 °C",
                "supply": "slowed down by the board: throttled",
                "battery": "on battery: 5 % left, at least 20 %, on again at 25 %",
            },
        ),
    ],
)
def test_the_rules(
    sensors: Sensors, waiting_for: tuple[guest.Reason, ...], reasons: dict[guest.Reason, str]
) -> None:
    """What a run waits for has to become somewhat better than its limit, and nothing else; all reasons are told."""
    assert guest.reasons_to_pause(sensors, 80, 20, waiting_for) == reasons


def test_limits_that_mean_never() -> None:
    """Infinity, and a battery that may be empty."""
    unwell = Sensors(120.0, (), Battery(0.0, discharging=True), None)
    assert guest.reasons_to_pause(unwell, math.inf, 0) == {}


def test_a_battery_that_has_to_be_full() -> None:
    """More than full is not waited for."""
    full = Sensors(None, None, Battery(100.0, discharging=True), None)
    assert guest.reasons_to_pause(full, 80, 98, ("battery",)) == {}


def test_how_hot_it_may_be(tmp_path: Path) -> None:
    """What was asked for; else less on a board than on a PC, whose processor is made for more."""
    assert guest.temperature_limit(edgepeft.Guest(root=tmp_path)) == 95
    write(tmp_path, {"proc/device-tree/model": "Raspberry Pi 5"})
    assert guest.temperature_limit(edgepeft.Guest(root=tmp_path)) == 80
    assert guest.temperature_limit(edgepeft.Guest(root=tmp_path, max_temperature=60)) == 60


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("edgepeft.guest.time.sleep", self.sleep)
        monkeypatch.setattr("edgepeft.guest.time.monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_supply_that_sags_whenever_something_is_computed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is well as soon as the run waits: so each pause is twice as long as the last, up to a minute, and few are saved."""
    clock = Clock(monkeypatch)
    saved: list[float] = []
    told = Trouble(lambda: None, lambda: throttled(root, 0x50000))
    pauses = guest.Pauses(edgepeft.Guest(root=root), [told], lambda: False)
    waited: list[int] = []

    def step(seconds: float) -> None:
        clock.now += seconds
        throttled(root, 0x50001)
        before = pauses.seconds
        pauses.wait(len(waited), lambda: saved.append(clock.now) is None)
        waited.append(round(pauses.seconds - before))

    for _ in range(8):
        step(1)
    assert waited == [2, 4, 8, 16, 32, 60, 60, 60]
    assert len(saved) == 4
    assert all(later - earlier >= guest.SAVE_SECONDS for earlier, later in itertools.pairwise(saved))
    step(61)
    assert waited[-1] == 2, "it held for a while"


def test_a_supply_that_sags_in_a_pause_for_heat(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of it some seconds after the heat: it is told then, and the next pauses grow all the same."""
    clock = Clock(monkeypatch)
    readings = iter(
        [
            lambda: (hot(root, 81), throttled(root, 0x50005)),
            lambda: (hot(root, 60), throttled(root, 0x50000)),
        ]
    )

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        next(readings, lambda: None)()

    monkeypatch.setattr("edgepeft.guest.time.sleep", sleep)
    monkeypatch.setattr("edgepeft.guest._STOP_SECONDS", guest.POLL_SECONDS)
    watch = Trouble(lambda: None, lambda: None)
    pauses = guest.Pauses(edgepeft.Guest(root=root), [watch], lambda: False)
    hot(root, 81)
    pauses.wait(0, lambda: False)
    hot_line, both = (reason for kind, _, reason in (each for each in watch.told if each[0] == "pause"))
    assert hot_line.startswith("too hot: 81.0 °C")
    assert "slowed down by the board: under-voltage" in both
    assert [kind for kind, *_ in watch.told] == ["pause", "pause", "resume"]
    waited: list[int] = []
    for step in range(1, 5):
        throttled(root, 0x50001)
        readings = iter([lambda: throttled(root, 0x50000)])
        before = pauses.seconds
        pauses.wait(step, lambda: False)
        waited.append(round(pauses.seconds - before))
    assert waited == [4, 8, 16, 32]


def test_what_was_not_saved_is_saved_at_the_next_pause(root: Path) -> None:
    """A pause before the first step has nothing to save, and keeps nobody from saving later."""
    pauses = guest.Pauses(
        edgepeft.Guest(root=root), [Trouble(lambda: None, lambda: hot(root, 20))], lambda: False
    )
    asked: list[bool] = []
    for worth in (False, True, True):
        hot(root, 99)
        pauses.wait(0, lambda: asked.append(worth) or worth)  # noqa: B023 - called at once
    assert asked == [False, True]


@pytest.mark.parametrize("name", ["thermal", "power_supply", "devices"])
def test_a_sensor_that_falls_silent_in_a_pause(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nobody knows that it is well: the run waits for a minute more, and then goes on."""
    clock = Clock(monkeypatch)
    pauses = guest.Pauses(edgepeft.Guest(root=root), [], lambda: False)
    hot(root, 90)
    throttled(root, 4)
    on_battery(root, 5)
    for other in {"thermal", "power_supply", "devices"} - {name}:
        for folder in (root / "sys/class" / other, root / "sys" / other):
            shutil.rmtree(folder, ignore_errors=True)
    sleep = clock.sleep

    def falls_silent(seconds: float) -> None:
        sleep(seconds)
        for folder in (root / "sys/class" / name, root / "sys" / name):
            shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr("edgepeft.guest.time.sleep", falls_silent)
    pauses.wait(0, lambda: False)
    assert 58 <= pauses.seconds <= 64


def test_heat_is_waited_for_as_long_as_it_takes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No longer: a small heat sink is hot again soon, and that is how it trains."""
    clock = Clock(monkeypatch)
    pauses = guest.Pauses(
        edgepeft.Guest(root=root), [Trouble(lambda: None, lambda: hot(root, 70))], lambda: False
    )
    for step in range(5):
        clock.now += 1
        hot(root, 81)
        pauses.wait(step, lambda: False)
    assert pauses.seconds == 5 * guest.POLL_SECONDS


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
        ("root", Path("nope")),
        ("root", __file__),
        ("root", None),
    ],
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    """Named, with the range."""
    with pytest.raises(ArgumentError, match=f"{setting} is .*; expected"):
        edgepeft.Guest(**{setting: value})


def test_a_limit_without_an_end_says_none() -> None:
    """No "at most inf"."""
    with pytest.raises(ArgumentError) as refused:
        edgepeft.Guest(max_temperature=0)
    assert str(refused.value) == "max_temperature is 0.0; expected more than 5."


def test_the_kernel_s_files_may_be_elsewhere(handmade: Path, root: Path) -> None:
    """Their folder is a path or its text, as everywhere."""
    watch = Trouble(lambda: hot(root, 81), lambda: hot(root, 50))
    trainer(handmade).fit(ROWS, callbacks=[watch], guest=edgepeft.Guest(root=str(root)))
    assert ("resume", AT) in watch.told


def test_the_sensors_are_read_now_and_then(
    handmade: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause ends when the machine has cooled down by some degrees, and is counted apart from the training."""
    clock = Clock(monkeypatch)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        hot(root, 81 - (clock.now - 1000) / 2)  # half a degree a second

    monkeypatch.setattr("edgepeft.guest.time.sleep", sleep)
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


def test_a_bundle_that_says_nothing_about_memory(handmade: Path, root: Path) -> None:
    """Is trained as it is."""
    assert trainer(handmade).fit(ROWS, guest=edgepeft.Guest(root=root, max_memory=1)).steps == STEPS
