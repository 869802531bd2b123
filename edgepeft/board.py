"""What the machine is and how it is doing, as the kernel's own files tell it.

Every function takes the folder that these files are under, so that a test can make a machine up. What a machine does not
tell is `None`, and never an error.
"""

import contextlib
import math
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepeft.limits import KiB

#: Where the kernel's files are.
ROOT = Path("/")

#: Instruction sets that matrix products gain from, by what /proc/cpuinfo calls them, on ARM and on x86.
_ARM_SETS = {"asimd": "asimd", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}
_X86_SETS = {"avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "vnni", "avx512_bf16": "bf16"}

#: Processors of 64 bits that boards have, by implementer and part, as Linux's arch/arm64/include/asm/cputype.h has them.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
}

#: The firmware's bits for what is so now, as the Raspberry Pi's documentation of `vcgencmd get_throttled` has them; the
#: same from bit 16 on are for what was so since the board started.
_THROTTLED_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")

#: The first bit of what was so.
_PAST_BIT = 16

#: Degrees Celsius that a sensor of a running machine can mean; others, such as 127, stand for one that is not there.
_PLAUSIBLE = (-40.0, 125.0)

#: Chips that a board measures its supply with, by the names of their drivers for Linux. What else has a meter measures a
#: part of a machine: a graphics card, a processor, a disk.
_METERS = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ina2xx", "ina3221")

#: Power supplies that hold a charge, by the kernel's types.
_BATTERIES = ("Battery", "UPS")

#: The cache of files, by the names of memory.stat.
_CACHE = ("inactive_file", "active_file")

#: What qemu calls processors that only its emulator has, and the board of its own. "QEMU Virtual CPU" is none of them: a
#: guest that runs at the processor's own speed may have that too.
_EMULATED_NAMES = ("QEMU TCG", "dummy-virt")

#: Architectures of 32 bits whose programs a kernel's processor runs as its own.
_RUNS_TOO = {"aarch64": ("arm",), "x86_64": ("i386", "i686"), "x86": ("i386", "i686")}


@dataclass(frozen=True)
class Board:
    """A machine, as it stays.

    Attributes:
        model: The board's name, by its device tree or, where a container hides that, by /proc/cpuinfo.
        processor: The processor's name.
        architecture: Such as "aarch64".
        physical_cores: Cores, hyperthreads not counted.
        usable_cores: Those that this process may use.
        instruction_sets: Whether each of those that matter is there, by name; empty where the kernel does not say.
        memory_bytes: All memory.
        emulated: Whether the processor is emulated, so that times say nothing.
    """

    model: str | None
    processor: str | None
    architecture: str
    physical_cores: int | None
    usable_cores: int
    instruction_sets: dict[str, bool]
    memory_bytes: int | None
    emulated: bool


@dataclass(frozen=True)
class Battery:
    """A battery that the machine can run on.

    Attributes:
        percent: How full it is.
        discharging: Whether the machine runs on it now.
    """

    percent: float
    discharging: bool


@dataclass(frozen=True)
class Sensors:
    """A machine, as it is now.

    Attributes:
        temperature: Of the hottest sensor, in degrees Celsius.
        throttling: What slows the processor down now, such as "under-voltage"; empty if nothing does, `None` where the
            board does not say.
        battery: The battery, where there is one.
        watts: What the machine takes, where it measures that.
    """

    temperature: float | None
    throttling: tuple[str, ...] | None
    battery: Battery | None
    watts: float | None


@dataclass(frozen=True)
class SensorFiles:
    """Where the sensors are.

    Attributes:
        temperatures: Files, in thousandths of a degree.
        throttled: Files of the Raspberry Pi's firmware.
        alarms: Files of the Raspberry Pi's voltage.
        batteries: Folders.
        meters: Files of the board's own meters, in millionths of a watt.
    """

    temperatures: Sequence[Path]
    throttled: Sequence[Path]
    alarms: Sequence[Path]
    batteries: Sequence[Path]
    meters: Sequence[Path]


def board(root: Path = ROOT) -> Board:
    """What the machine is."""
    cpu_info = _text(root / "proc/cpuinfo") or ""
    model = (_text(root / "proc/device-tree/model") or "").strip("\0 \n") or _board_model(cpu_info)
    processor = cpu_model(cpu_info)
    total = _memory(root).get("MemTotal")
    return Board(
        model=model,
        processor=processor,
        architecture=platform.machine(),
        physical_cores=_cores(root, None),
        usable_cores=usable_cores(root),
        instruction_sets=instruction_sets(cpu_info),
        memory_bytes=total,
        emulated=_emulated(root, model, processor, platform.machine()),
    )


def sensors(root: Path = ROOT) -> Sensors:
    """How the machine is doing."""
    return read_sensors(find_sensors(root))


def cpu_model(cpu_info: str) -> str | None:
    """The processor's name by the content of /proc/cpuinfo, if that says it: x86 by name, ARM by numbers, a core each."""
    pairs = [_pair(line) for line in cpu_info.splitlines()]
    named = [value for key, value in pairs if key == "model name" and value]
    implementers = [value for key, value in pairs if key == "CPU implementer"]
    parts = [value for key, value in pairs if key == "CPU part"]
    cores = [_ARM_PARTS[core] for core in zip(implementers, parts, strict=False) if core in _ARM_PARTS]
    return next(iter(named), None) or " + ".join(dict.fromkeys(cores)) or None


def is_board(root: Path = ROOT) -> bool:
    """Whether it is a board, rather than a PC: its firmware describes it by a device tree.

    Docker hides that, but not what the kernel has of it in /proc/cpuinfo.
    """
    return (root / "proc/device-tree").is_dir() or _board_model(
        _text(root / "proc/cpuinfo") or ""
    ) is not None


def instruction_sets(cpu_info: str) -> dict[str, bool]:
    """Whether every core has each instruction set that matters, by the content of /proc/cpuinfo."""
    for key, known in (("Features", _ARM_SETS), ("flags", _X86_SETS)):
        cores = [
            value.split() for line in cpu_info.splitlines() for name, value in [_pair(line)] if name == key
        ]
        if cores:
            return {name: all(flag in core for core in cores) for flag, name in known.items()}
    return {}


def usable_cores(root: Path = ROOT, cpus: Iterable[int] | None = None) -> int:
    """Physical cores that this process may use: what it is bound to, within its control group's share of time.

    Args:
        root: Where the kernel's files are.
        cpus: Numbers of the processors that it is bound to; by default what the kernel says.
    """
    bound = set(_affinity() if cpus is None else cpus)
    cores = _cores(root, bound) or len(bound) or 1
    shares = [share for folder in _groups(root) for share in [_share(folder)] if share is not None]
    return max(1, min([cores, *(math.ceil(share) for share in shares)]))


def available_memory(root: Path = ROOT) -> int | None:
    """Bytes that can still be taken without swapping, within what the process's control group may have."""
    rooms = [room for folder in _groups(root) for room in [_room(folder)] if room is not None]
    available = _memory(root).get("MemAvailable")
    return min([*rooms, *([] if available is None else [available])], default=None)


def find_sensors(root: Path = ROOT) -> SensorFiles:
    """Where the sensors are: finding them takes ten times as long as reading them."""
    supplies = sorted(root.glob("sys/class/power_supply/*"))
    alarms = root.glob("sys/class/hwmon/hwmon*/in0_lcrit_alarm")
    meters = root.glob("sys/class/hwmon/hwmon*/power1_input")
    return SensorFiles(
        temperatures=list(root.glob("sys/class/thermal/thermal_zone*/temp")),
        throttled=list(root.glob("sys/devices/platform/soc*/*firmware/get_throttled")),
        # A kernel without Raspberry Pi's own patches tells of the voltage only.
        alarms=[path for path in alarms if _word(path.parent / "name") == "rpi_volt"],
        # Those that power the machine, not its mouse.
        batteries=[
            path
            for path in supplies
            if _word(path / "type") in _BATTERIES and _word(path / "scope") != "Device"
        ],
        meters=[path for path in meters if _word(path.parent / "name") in _METERS],
    )


def read_sensors(files: SensorFiles) -> Sensors:
    """What the sensors say now."""
    statuses = {path: _word(path / "status") for path in files.batteries}
    used = [path for path, status in statuses.items() if status == "Discharging"]
    return Sensors(
        temperature=_hottest(files.temperatures),
        throttling=_throttling(files),
        battery=_battery(files.batteries, discharging=bool(used)),
        watts=_sum(map(_power, used)) or _sum(map(_watts, files.meters)),
    )


def past_throttling(files: SensorFiles) -> frozenset[str]:
    """What has slowed the processor down at some time; empty where the board does not say.

    That is since the board started or, where the kernel asks for it regularly, since it did so last: of two readings, what is
    in the second only came between them.
    """
    bits = _throttled(files.throttled)
    return frozenset(() if bits is None else _slowed_by(bits >> _PAST_BIT))


def _hottest(paths: Iterable[Path]) -> float | None:
    degrees = [value / 1e3 for value in map(_number, paths) if value is not None]
    return max((value for value in degrees if _PLAUSIBLE[0] <= value <= _PLAUSIBLE[1]), default=None)


def _throttling(files: SensorFiles) -> tuple[str, ...] | None:
    bits = _throttled(files.throttled)
    if bits is not None:
        return _slowed_by(bits)
    alarms = [alarm for alarm in map(_number, files.alarms) if alarm is not None]
    return (("under-voltage",) if any(alarms) else ()) if alarms else None


def _throttled(paths: Iterable[Path]) -> int | None:
    for path in paths:
        with contextlib.suppress(ValueError):
            return int(_word(path) or "", 16)
    return None


def _slowed_by(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(_THROTTLED_BITS) if bits >> bit & 1)


def _battery(folders: Iterable[Path], *, discharging: bool) -> Battery | None:
    """The fullest, if there are several."""
    levels = [level for folder in folders for level in [_number(folder / "capacity")] if level is not None]
    return Battery(max(levels), discharging) if levels else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _watts(meter: Path) -> float | None:
    microwatts = _number(meter)
    return None if microwatts is None else microwatts / 1e6


def _power(supply: Path) -> float | None:
    """Watts of a power supply: it has either power in microwatts, or current and voltage in millionths."""
    power = _number(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = _number(supply / "current_now"), _number(supply / "voltage_now")
    return None if current is None or voltage is None else abs(current * voltage) / 1e12


def _cores(root: Path, cpus: set[int] | None) -> int | None:
    """How many cores some processors are, or all that are on; hyperthreads of one core name the same siblings."""
    found = set()
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*"):
        siblings = _text(folder / "topology/core_cpus_list") or _text(
            folder / "topology/thread_siblings_list"
        )
        if siblings and (cpus is None or int(folder.name[3:]) in cpus):
            found.add(siblings.strip())
    return len(found) or None


def _affinity() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _groups(root: Path) -> list[Path]:
    """Folders of the process's control group (version 2) and of those above it: each may set a limit."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        if line.startswith("0::/"):
            top = root / "sys/fs/cgroup"
            own = top / line.removeprefix("0::/")
            return [own, *(folder for folder in own.parents if folder.is_relative_to(top))]
    return []


def _share(group: Path) -> float | None:
    """How many processors' time a control group may take."""
    quota, _, period = (_text(group / "cpu.max") or "").partition(" ")
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _room(group: Path) -> int | None:
    """Bytes that a control group may still take; the cache of files, which gives way, is not counted as taken.

    Above memory.high it is slowed down until it is of no use, above memory.max ended.
    """
    limits = [_number(group / name) for name in ("memory.max", "memory.high")]
    limit = min((each for each in limits if each is not None), default=None)
    taken = _number(group / "memory.current")
    if limit is None or taken is None:
        return None
    lines = [line.split() for line in (_text(group / "memory.stat") or "").splitlines()]
    cache = [int(line[1]) for line in lines if len(line) == 2 and line[0] in _CACHE and line[1].isdecimal()]
    return max(0, int(limit - taken) + sum(cache))


def _memory(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        key, value = _pair(line)
        number, _, unit = value.partition(" ")
        if unit == "kB" and number.isdecimal():
            found[key] = int(number) * KiB
    return found


def _emulated(root: Path, model: str | None, processor: str | None, architecture: str) -> bool:
    """Whether qemu's names are there, or the kernel runs on another architecture than this program."""
    if any(name in told for told in (model, processor) if told for name in _EMULATED_NAMES):
        return True
    kernel = _kernel_architecture(root)
    return kernel is not None and not architecture.startswith((kernel, *_RUNS_TOO.get(kernel, ())))


def _kernel_architecture(root: Path) -> str | None:
    """The processor's that the kernel runs on: qemu's user mode gives these files as they are."""
    told = re.match(r"cpu:type:(\w+)[,:]", _text(root / "sys/devices/system/cpu/modalias") or "")
    return _word(root / "proc/sys/kernel/arch") or (told[1] if told else None)


def _board_model(cpu_info: str) -> str | None:
    """What /proc/cpuinfo has of the device tree: a line after those of the processors."""
    pairs = [_pair(line) for line in cpu_info.splitlines()]
    return next((value for key, value in pairs if key == "Model" and value), None)


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _word(path: Path) -> str | None:
    return (_text(path) or "").strip() or None


def _number(path: Path) -> float | None:
    try:
        number = float((_text(path) or "").strip())
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(path: Path) -> str | None:
    """A file's content; some of the kernel's cannot be read at times, as when a sensor is asleep."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return None
