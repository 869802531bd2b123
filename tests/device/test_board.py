"""What the kernel's files say of a machine, and that a file which is not there is no error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_machine import BATTERY, PI_4, PI_5, TEMPERATURE, THROTTLED, on_battery, throttled, write

from edgepeft import board
from edgepeft.limits import KiB

CPU = "sys/devices/system/cpu"
#: What the kernel calls this architecture.
KERNEL = "x86" if os.uname().machine == "x86_64" else os.uname().machine
GROUP = "sys/fs/cgroup/system.slice/reader.service"


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    """Everything is unknown, and nothing fails."""
    found = board.board(tmp_path)
    assert (found.model, found.processor, found.memory_bytes, found.physical_cores) == (None,) * 4
    assert (found.instruction_sets, found.emulated) == ({}, False)
    assert found.usable_cores >= 1
    assert board.sensors(tmp_path) == board.Sensors(None, None, None, None)
    assert board.available_memory(tmp_path) is None


def test_files_that_hold_nonsense(tmp_path: Path) -> None:
    """As if they were not there."""
    names = [
        TEMPERATURE,
        THROTTLED,
        f"{BATTERY}/capacity",
        "proc/meminfo",
        "proc/cpuinfo",
        "proc/self/cgroup",
    ]
    write(tmp_path, dict.fromkeys(names, "MemTotal: lots kB") | {f"{BATTERY}/type": "Battery"})
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").mkdir(parents=True)
    assert board.sensors(tmp_path) == board.Sensors(None, None, None, None)
    assert board.board(tmp_path).memory_bytes is None


def test_this_machine() -> None:
    """Whatever it is, it has cores and memory."""
    found = board.board()
    assert 1 <= found.usable_cores <= (os.cpu_count() or 1)
    assert found.memory_bytes is None or 0 < (board.available_memory() or 0) <= found.memory_bytes


def test_a_raspberry_pi(tmp_path: Path) -> None:
    """By its device tree, whose text ends with a zero."""
    write(
        tmp_path, {"proc/cpuinfo": PI_4, "proc/meminfo": "MemTotal:  3884360 kB\nMemAvailable:  3000000 kB"}
    )
    tree = tmp_path / "proc/device-tree/model"
    tree.parent.mkdir(parents=True)
    tree.write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    found = board.board(tmp_path)
    assert (found.model, found.processor) == ("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72")
    assert found.memory_bytes == 3884360 * KiB
    assert board.available_memory(tmp_path) == 3000000 * KiB
    assert found.instruction_sets == {"asimd": True, "dotprod": False, "i8mm": False, "bf16": False}


def test_a_raspberry_pi_in_a_container(tmp_path: Path) -> None:
    """Docker hides the device tree: the board's name is in /proc/cpuinfo too. A PC's processors have a model, a number."""
    write(tmp_path, {"proc/cpuinfo": PI_4})
    (tmp_path / "proc/device-tree").symlink_to(tmp_path / "sys/firmware/devicetree/base")
    assert board.board(tmp_path).model == "Raspberry Pi 4 Model B Rev 1.4"
    assert board.is_board(tmp_path)
    write(tmp_path, {"proc/cpuinfo": "model\t\t: 143\nmodel name\t: Some CPU\n"})
    assert board.board(tmp_path).model is None
    assert not board.is_board(tmp_path)


@pytest.mark.parametrize(
    ("cpu_info", "name", "sets"),
    [
        (PI_5, "Cortex-A76", {"asimd", "dotprod"}),
        (PI_5 + "processor: 1\nFeatures: asimd\n", "Cortex-A76", {"asimd"}),
        (PI_5 + PI_4, "Cortex-A76 + Cortex-A72", {"asimd"}),
        ("Features: asimd\nCPU implementer: 0x41\nCPU part: 0xfff", None, {"asimd"}),
        ("model name: AMD EPYC\nflags: sse2 avx2\nmodel name: AMD EPYC\nflags: avx2", "AMD EPYC", {"avx2"}),
        ("Features: asimd asimddp i8mm bf16", None, {"asimd", "dotprod", "i8mm", "bf16"}),
        ("flags: avx2 avx512f avx512_vnni avx512_bf16", None, {"avx2", "avx512", "vnni", "bf16"}),
        ("", None, set()),
    ],
)
def test_processors(cpu_info: str, name: str | None, sets: set[str]) -> None:
    """Names, and the instruction sets that all cores have."""
    assert board.cpu_model(cpu_info) == name
    assert {each for each, there in board.instruction_sets(cpu_info).items() if there} == sets


def test_hyperthreads_are_no_cores(tmp_path: Path) -> None:
    """Four processors of two cores; a process that is bound to three has two, one that is bound to one core's, one."""
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    for cpu, text in siblings.items():
        write(tmp_path, {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": text})
    (tmp_path / CPU / "cpufreq").mkdir()
    assert board.board(tmp_path).physical_cores == 2
    assert [board.usable_cores(tmp_path, cpus) for cpus in ([0, 1, 2, 3], [0, 1, 2], [0, 2])] == [2, 2, 1]


def test_without_a_topology_every_processor_counts(tmp_path: Path) -> None:
    """As in a container that hides it."""
    assert board.usable_cores(tmp_path, range(4)) == 4


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("max 100000", 4), ("5000 100000", 1)])
def test_a_share_of_time_is_a_limit(tmp_path: Path, quota: str, cores: int) -> None:
    """CPUQuota of systemd, of the service or of a slice above it."""
    write(tmp_path, {"proc/self/cgroup": "0::/system.slice/reader.service"})
    for group in (GROUP, str(Path(GROUP).parent)):
        root = tmp_path / group.replace("/", "-")
        write(root, {"proc/self/cgroup": "0::/system.slice/reader.service", f"{group}/cpu.max": quota})
        assert board.usable_cores(root, range(4)) == cores


def test_what_the_control_group_may_have_is_a_limit(tmp_path: Path) -> None:
    """MemoryMax of systemd: the cache of files does not count as taken."""
    write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable:  3000000 kB",
            "proc/self/cgroup": "0::/system.slice/reader.service",
            f"{GROUP}/memory.max": 500_000_000,
            f"{GROUP}/memory.current": 300_000_000,
            f"{GROUP}/memory.stat": "anon 200000000\ninactive_file 90000000\nactive_file 10000000\nactive_anon 5",
            "sys/fs/cgroup/system.slice/memory.max": "max",
        },
    )
    assert board.available_memory(tmp_path) == 300_000_000
    write(tmp_path, {f"{GROUP}/memory.high": 450_000_000})
    assert board.available_memory(tmp_path) == 250_000_000, "from there on the kernel slows the group down"
    write(tmp_path, {f"{GROUP}/memory.high": "max"})
    write(tmp_path, {f"{GROUP}/memory.current": 600_000_000, f"{GROUP}/memory.stat": ""})
    assert board.available_memory(tmp_path) == 0


def test_the_hottest_sensor(tmp_path: Path) -> None:
    """Of those that mean a temperature: some drivers say -273 or 127 000 where nothing is connected."""
    zones = {0: 51500, 1: 62000, 2: -273200, 3: 127000}
    write(tmp_path, {f"sys/class/thermal/thermal_zone{zone}/temp": value for zone, value in zones.items()})
    assert board.sensors(tmp_path).temperature == 62.0


@pytest.mark.parametrize(
    ("bits", "told"),
    [
        (0, ()),
        (0x50000, ()),
        (0x50005, ("under-voltage", "throttled")),
        (0x2, ("frequency capped",)),
        (0x8, ("soft temperature limit",)),
    ],
)
def test_throttling_is_what_is_so_now(tmp_path: Path, bits: int, told: tuple[str, ...]) -> None:
    """Not what was so at some time since the board started: the bits from 16 on."""
    throttled(tmp_path, bits)
    assert board.sensors(tmp_path).throttling == told


def test_what_slowed_a_board_down_before(tmp_path: Path) -> None:
    """By the bits from 16 on; nothing is made up where there are none."""
    assert board.past_throttling(board.find_sensors(tmp_path)) == frozenset()
    throttled(tmp_path, 0x50002)
    assert board.past_throttling(board.find_sensors(tmp_path)) == {"under-voltage", "throttled"}


def test_throttling_of_a_raspberry_pi_5(tmp_path: Path) -> None:
    """Its folder has an address."""
    write(tmp_path, {"sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "4"})
    assert board.sensors(tmp_path).throttling == ("throttled",)


@pytest.mark.parametrize(("alarm", "told"), [(1, ("under-voltage",)), (0, ())])
def test_under_voltage_by_the_kernels_own_driver(tmp_path: Path, alarm: int, told: tuple[str, ...]) -> None:
    """Where get_throttled is not there; another chip's alarm says nothing of it."""
    write(tmp_path, {"sys/class/hwmon/hwmon0/name": "other", "sys/class/hwmon/hwmon0/in0_lcrit_alarm": 1})
    assert board.sensors(tmp_path).throttling is None
    write(
        tmp_path, {"sys/class/hwmon/hwmon1/name": "rpi_volt", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": alarm}
    )
    assert board.sensors(tmp_path).throttling == told


def test_batteries(tmp_path: Path) -> None:
    """The machine's own; neither its mouse's nor the mains."""
    write(tmp_path, {"sys/class/power_supply/AC/type": "Mains"})
    mouse = {"type": "Battery", "scope": "Device", "capacity": 3, "status": "Discharging"}
    write(tmp_path, {f"sys/class/power_supply/hid-0/{name}": value for name, value in mouse.items()})
    assert board.sensors(tmp_path).battery is None
    on_battery(tmp_path, 42)
    assert board.sensors(tmp_path).battery == board.Battery(42.0, discharging=True)
    on_battery(tmp_path, 42, "Charging")
    assert board.sensors(tmp_path).battery == board.Battery(42.0, discharging=False)
    write(tmp_path, {f"{BATTERY}/type": "UPS"})
    assert board.sensors(tmp_path).battery == board.Battery(42.0, discharging=False), (
        "as on a Raspberry Pi's HAT"
    )


def test_watts(tmp_path: Path) -> None:
    """Of a meter on the board, not on a part; while on battery, what that gives, by power or by current and voltage."""
    for chip, name, power in (("hwmon0", "amdgpu", 31_000_000), ("hwmon1", "ina219", 4_200_000)):
        assert board.sensors(tmp_path).watts is None
        folder = f"sys/class/hwmon/{chip}"
        write(tmp_path, {f"{folder}/name": name, f"{folder}/power1_input": power})
    assert board.sensors(tmp_path).watts == 4.2
    on_battery(tmp_path, 80)
    assert board.sensors(tmp_path).watts == 4.2
    write(tmp_path, {f"{BATTERY}/current_now": -2_000_000, f"{BATTERY}/voltage_now": 5_000_000})
    assert board.sensors(tmp_path).watts == 10.0
    write(tmp_path, {f"{BATTERY}/power_now": 6_000_000})
    assert board.sensors(tmp_path).watts == 6.0
    on_battery(tmp_path, 80, "Charging")
    assert board.sensors(tmp_path).watts == 4.2


@pytest.mark.parametrize(
    ("files", "emulated"),
    [
        ({"proc/sys/kernel/arch": "another"}, True),
        ({"proc/sys/kernel/arch": os.uname().machine}, False),
        ({"sys/devices/system/cpu/modalias": "cpu:type:another,ven0000fam0006:feature:,0000"}, True),
        ({"sys/devices/system/cpu/modalias": f"cpu:type:{KERNEL}:feature:"}, False),
        ({"proc/device-tree/model": "linux,dummy-virt"}, True),
        ({"proc/cpuinfo": "model name: QEMU TCG CPU version 2.5+"}, True),
        ({"proc/cpuinfo": "model name: QEMU Virtual CPU version 2.5+"}, False),
    ],
)
def test_an_emulated_processor(tmp_path: Path, files: dict[str, object], emulated: bool) -> None:  # noqa: FBT001
    """By qemu's names, or by a kernel of another architecture."""
    assert board.board(write(tmp_path, files)).emulated is emulated


def test_a_program_of_32_bits_is_not_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel of 64."""
    monkeypatch.setattr("platform.machine", lambda: "armv7l")
    assert not board.board(write(tmp_path, {"proc/sys/kernel/arch": "aarch64"})).emulated
    assert board.board(write(tmp_path, {"proc/sys/kernel/arch": "x86_64"})).emulated


THREADS = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import edgepeft
before = len(os.listdir("/proc/self/task"))
model = edgepeft.load(sys.argv[1])
model.predict({"input_ids": [[1, 1]], "attention_mask": [[1, 1]]})
print(len(os.listdir("/proc/self/task")) - before, len(os.sched_getaffinity(0)))
"""


def test_a_process_bound_to_one_core_computes_with_one_thread(handmade: Path) -> None:
    """ONNX Runtime alone would start a thread for every core of the machine, and bind it to one that is not ours."""
    command = [sys.executable, "-c", THREADS, str(handmade / "chat")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
