"""A machine that a test makes up: the kernel's files under a folder."""

from pathlib import Path

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
TEMPERATURE = "sys/class/thermal/thermal_zone0/temp"
BATTERY = "sys/class/power_supply/BAT0"

#: /proc/cpuinfo of a Raspberry Pi 4 and of a 5, shortened.
PI_4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08

processor\t: 1
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08

Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
PI_5 = "processor\t: 0\nFeatures\t: fp asimd aes crc32 asimdhp asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


def write(root: Path, files: dict[str, object]) -> Path:
    """Writes files of the kernel, a line each."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def hot(root: Path, degrees: float) -> None:
    """Sets the temperature."""
    write(root, {TEMPERATURE: round(degrees * 1000)})


def throttled(root: Path, bits: int) -> None:
    """Sets what the firmware of a Raspberry Pi says."""
    write(root, {THROTTLED: f"{bits:x}"})


def on_battery(root: Path, percent: float, status: str = "Discharging") -> None:
    """Sets the battery."""
    files = {"type": "Battery", "capacity": percent, "status": status}
    write(root, {f"{BATTERY}/{name}": value for name, value in files.items()})
