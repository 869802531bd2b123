"""Training as a guest: on a machine that has other things to do, or that suffers from heat, a weak supply, a low battery."""

import contextlib
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgepeft import board, estimate, names
from edgepeft.arguments import Range, TrainingArguments
from edgepeft.board import Sensors
from edgepeft.callbacks import Callback
from edgepeft.engines.choice import STOCK
from edgepeft.errors import ArgumentError, MemoryLimitError
from edgepeft.estimate import MemoryEstimate
from edgepeft.manifest import Manifest
from edgepeft.memory import Resident
from edgepeft.units import size_text

#: What a run waits for to become better: heat, the supply or what else a board is slowed down for, the battery.
Reason = Literal["heat", "supply", "battery"]

#: Bytes of memory that a limit can be, at most.
MAX_MEMORY_BYTES = 10**15

#: Seconds between two looks at the sensors while a run is paused.
POLL_SECONDS = 2.0

#: Degrees Celsius above which a run pauses by default: boards are slowed down from 80 on, a PC's processor from 100.
BOARD_DEGREES = 80.0
PC_DEGREES = 95.0

#: What has to be better than the limit before a run that paused goes on: degrees of heat, per cent of the battery.
COOLING_DEGREES = 5.0
CHARGED_PERCENT = 5.0

#: Seconds that a slowed-down board is left alone, at least: a weak supply is well as soon as nothing is computed. The
#: first is for a single time; another within the last of going on doubles it, up to the last.
SUPPLY_SECONDS = (POLL_SECONDS, 60.0)

#: Seconds between two checkpoints that are written because a run pauses.
SAVE_SECONDS = 60.0

#: Seconds between two looks whether a paused run was asked to stop.
_STOP_SECONDS = 0.2

#: Seconds after which the sensors are looked for again: a battery, say, is put in.
_FIND_SECONDS = 30.0

#: Seconds for which a paused run waits on when the sensor that it waits for says nothing.
_SILENT_SECONDS = 60.0

_RANGES = {
    "max_temperature": Range(lowest=COOLING_DEGREES, highest=math.inf, above_lowest=True),
    "min_battery": Range(lowest=0, highest=100),
    "nice": Range(lowest=0, highest=19, whole=True),
    "max_memory": Range(lowest=1, highest=MAX_MEMORY_BYTES, whole=True),
}
#: Settings that may be left to the machine.
_OPTIONAL = ("max_temperature", "max_memory")


@dataclass(frozen=True, kw_only=True)
class Guest:
    """How a training behaves on a machine that is not its own.

    It runs at a low priority, takes no more memory than there is, and pauses while the machine is too hot, throttled or
    short of voltage, or on a low battery. A pause changes nothing in the result. What the machine does not tell is not
    heeded. docs/guest.md has more.

    Args:
        max_temperature: Degrees Celsius above which a run pauses, until it is 5 degrees cooler; infinity for never. By
            default 80 on a board, and 95 elsewhere.
        min_battery: Per cent of charge below which a run pauses, while the machine runs on its battery, until there are
            5 more or it is plugged in.
        nice: Priority of the thread that trains and of those that it starts, from 0 to 19, the lowest. Afterwards the
            thread has its own again, where the system lets it.
        max_memory: Bytes that the process may take; by default what is available when the run begins.
        root: Folder that the kernel's files are under: /sys/class/thermal, say. A machine can be made up in another one, to
            try a run that pauses; docs/guest.md shows how.

    Raises:
        ArgumentError: A setting is out of range, or `root` is no folder.
    """

    max_temperature: float | None = None
    min_battery: float = 20.0
    nice: int = 10
    max_memory: int | None = None
    root: str | os.PathLike[str] = "/"

    def __post_init__(self) -> None:
        for name, bounds in _RANGES.items():
            if getattr(self, name) is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, bounds.checked(name, getattr(self, name)))
        if not (isinstance(self.root, str | os.PathLike) and Path(self.root).is_dir()):
            raise ArgumentError(f"root is {str(self.root)!r}; expected a folder, such as '/'.")


def temperature_limit(guest: Guest) -> float:
    """Degrees Celsius above which a run pauses."""
    if guest.max_temperature is not None:
        return guest.max_temperature
    return BOARD_DEGREES if board.is_board(Path(guest.root)) else PC_DEGREES


def reasons_to_pause(
    sensors: Sensors, max_temperature: float, min_battery: float, waiting_for: Collection[Reason] = ()
) -> dict[Reason, str]:
    """Why a run should wait, all that speaks for it; empty if it need not.

    Args:
        sensors: How the machine is doing.
        max_temperature: Degrees Celsius.
        min_battery: Per cent.
        waiting_for: What it waits for already: that has to become somewhat better than its limit.
    """
    cool, charged = max_temperature - COOLING_DEGREES, min(min_battery + CHARGED_PERCENT, 100)
    heat, battery = sensors.temperature, sensors.battery
    reasons: dict[Reason, str] = {}
    if heat is not None and heat > (cool if "heat" in waiting_for else max_temperature):
        reasons["heat"] = f"too hot: {heat:.1f} °C, at most {max_temperature:g} °C, on again at {cool:g} °C"
    if sensors.throttling:
        reasons["supply"] = f"slowed down by the board: {', '.join(sensors.throttling)}"
    least = charged if "battery" in waiting_for else min_battery
    if battery is not None and battery.discharging and battery.percent < least:
        reasons["battery"] = (
            f"on battery: {battery.percent:g} % left, at least {min_battery:g} %, on again at {charged:g} %"
        )
    return reasons


class Pauses:
    """The pauses of a run.

    Args:
        guest: The limits, or `None` for a run that never pauses.
        callbacks: Told of every pause and of its end.
        stopping: Whether the run was asked to stop, which ends a pause.

    Attributes:
        seconds: How long all pauses have been.
    """

    def __init__(
        self, guest: Guest | None, callbacks: Sequence[Callback], stopping: Callable[[], bool]
    ) -> None:
        self.seconds = 0.0
        self._guest = guest
        self._degrees = math.inf if guest is None else temperature_limit(guest)
        self._callbacks = callbacks
        self._stopping = stopping
        self._found = self._saved = self._supplied = -math.inf  # when that was, by the monotonic clock
        self._supply_seconds = 0.0
        self._told: dict[Reason, float] = {}  # when each sensor last said something

    def wait(self, step: int, save: Callable[[], bool]) -> None:
        """Returns at once, or when the machine is well again.

        Args:
            step: Updates done so far.
            save: Called as a pause begins, if nothing was saved a short time ago: a board that is short of power may not
                live to the pause's end. Says whether there was anything to save.
        """
        reasons = self._reasons()
        if not reasons or self._stopping():
            return
        started = time.monotonic()
        if started - self._saved >= SAVE_SECONDS and save():
            self._saved = started
        self._wait_for(reasons, step)
        seconds = time.monotonic() - started
        self.seconds += seconds
        for callback in self._callbacks:
            callback.on_resume(step, seconds)

    def _wait_for(self, reasons: Mapping[Reason, str], step: int) -> None:
        """Tells why it waits, again if there is more to wait for, until nothing is left."""
        waiting_for: set[Reason] = set()
        until = -math.inf
        while not self._stopping() and (reasons or time.monotonic() < until):
            new = reasons.keys() - waiting_for
            if "supply" in new:
                until = self._longer(time.monotonic())
            if new:
                for callback in self._callbacks:
                    callback.on_pause(step, "; ".join(reasons.values()))
            waiting_for |= new
            self._sleep()
            reasons = self._reasons(waiting_for)
        if "supply" in waiting_for:
            self._supplied = time.monotonic()

    def _longer(self, now: float) -> float:
        """Until when the supply is left alone: twice as long as before, if that was shortly before."""
        first, last = SUPPLY_SECONDS
        again = now - self._supplied < last
        self._supply_seconds = min(2 * self._supply_seconds, last) if again else first
        return now + self._supply_seconds

    def _reasons(self, waiting_for: Collection[Reason] = ()) -> dict[Reason, str]:
        if self._guest is None:
            return {}
        now = time.monotonic()
        if now - self._found >= _FIND_SECONDS:
            self._found = now
            self._files = board.find_sensors(Path(self._guest.root))
        found = board.read_sensors(self._files)
        reasons = reasons_to_pause(found, self._degrees, self._guest.min_battery, waiting_for)
        told: dict[Reason, object] = {
            "heat": found.temperature,
            "supply": found.throttling,
            "battery": found.battery,
        }
        self._told |= {reason: now for reason, value in told.items() if value is not None}
        return reasons | {
            reason: f"what is known of the {reason} is old"
            for reason in waiting_for
            if told[reason] is None and now - self._told[reason] < _SILENT_SECONDS
        }

    def _sleep(self) -> None:
        # Not by waiting for an event: a signal's handler that sets it could come while its lock is held.
        until = time.monotonic() + POLL_SECONDS
        while not self._stopping() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _STOP_SECONDS))


@dataclass(frozen=True)
class MemoryPlan:
    """How many rows are run at once, and why.

    Attributes:
        rows: Rows that fit.
        expected_bytes: What the process would take with as many as were asked for; 0 where nothing is known.
        limit_bytes: What it may take.
        kept_bytes: What ONNX Runtime keeps of it for the next training, at most.
    """

    rows: int
    expected_bytes: int = 0
    limit_bytes: int = 0
    kept_bytes: int = 0


def memory_limit(guest: Guest, resident: Resident) -> int | None:
    """Bytes that this process may take in all; `None` where the machine does not say.

    Args:
        guest: The limit that was asked for.
        resident: What the process holds already, and does not take again.
    """
    if guest.max_memory is not None:
        return guest.max_memory
    available = board.available_memory(Path(guest.root))
    return None if available is None else available + resident.now


def _too_little(guest: Guest, limit: int, expected: float, length: int | None) -> MemoryLimitError:
    of = "one row" if length is None else f"one row of length {length}"
    if guest.max_memory is None:
        ways = f"{'End' if length is None else 'Lower max_length, end'} other programs, or set max_memory"
        held = f"{size_text(limit)} are available. {ways}"
    else:
        ways = f"{'Raise' if length is None else 'Lower max_length, or raise'} max_memory"
        held = f"max_memory is {size_text(limit)}. {ways}"
    return MemoryLimitError(f"training on {of} is expected to take {size_text(expected)} of memory; {held}.")


class Planning:
    """How many rows of a run are run at once: half as many as asked for, and half of that, until they fit into memory.

    Args:
        guest: Who asked, or `None` for as many as are asked for.
        manifest: The bundle's: it says what a batch takes, if the exporter could tell.
        engine: The engine that runs it.
        arguments: The batch that was asked for.
        resident: What the process holds before the training.

    Attributes:
        plan: The plan that holds.
    """

    def __init__(
        self,
        guest: Guest | None,
        manifest: Manifest,
        engine: str,
        arguments: TrainingArguments,
        resident: Resident,
    ) -> None:
        self.plan = MemoryPlan(arguments.batch_size)
        self._guest = guest
        self._limit = None if guest is None else memory_limit(guest, resident)
        self._manifest, self._engine, self._arguments = manifest, engine, arguments
        self._resident = resident
        self._length = 0

    @property
    def heeds(self) -> bool:
        """Whether it has to be told of lengths."""
        return self._limit is not None

    def longer(self, length: int) -> bool:
        """Plans for rows of a length, if none were as long before.

        Returns:
            Whether fewer rows are run at once than before.

        Raises:
            MemoryLimitError: Not even one row fits.
        """
        wanted = self._expected(self._arguments.batch_size, length)
        if self._guest is None or self._limit is None or wanted is None or length <= self._length:
            return False
        before, self._length = self.plan.rows, length
        held = self._resident.now - self._resident.kept  # data, and whatever else the program is
        besides = max(0.0, held - wanted.loaded)
        rows, found = self._arguments.batch_size, wanted
        while found.total + besides > self._limit and rows > 1:
            rows //= 2
            smaller = self._expected(rows, length)
            assert smaller is not None
            found = smaller
        if found.total + besides > self._limit:
            varies = length if estimate.has_length(self._manifest.graphs[names.TRAIN]) else None
            raise _too_little(self._guest, self._limit, found.total + besides, varies)
        if rows < self._arguments.batch_size:
            self._manifest.graph(names.ACCUMULATE)
        # Only the stock engine's sessions share their buffers, for as long as the process lives.
        kept = int(found.total - found.loaded) if self._engine == STOCK else 0
        self.plan = MemoryPlan(rows, int(wanted.total + besides), self._limit, kept)
        return rows < before

    def _expected(self, rows: int, length: int) -> MemoryEstimate | None:
        optimizer = self._arguments.optimizer
        return estimate.training_memory(self._manifest, rows, length, optimizer, self._engine)


@contextlib.contextmanager
def low_priority(nice: int, workers: Callable[[], Collection[int]] = tuple) -> Iterator[None]:
    """Lowers the priority of this thread, of those that it starts, and of its workers; raises none.

    A system that does not let a program raise its priority keeps it low afterwards. Elsewhere than on Linux, where
    priorities are of processes, nothing is changed.

    Args:
        nice: The priority.
        workers: The system's numbers of threads that work for this one, those that were started meanwhile included.
    """
    if platform.system() != "Linux":
        yield
        return
    thread = threading.get_native_id()  # on Linux, priorities are of threads
    before = os.getpriority(os.PRIO_PROCESS, thread)
    if before >= nice:
        yield
        return
    _set_priority(nice, (thread, *workers()))
    try:
        yield
    finally:
        _set_priority(before, (thread, *workers()))


def _set_priority(nice: int, threads: Collection[int]) -> None:
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended, or the system does not let us
            os.setpriority(os.PRIO_PROCESS, thread, nice)
