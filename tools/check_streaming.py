"""Checks that the memory of training does not grow with the data: two files of JSON Lines, ten times apart in size.

Each is written, trained on for some steps with rows in random order and grouped by length, and evaluated on in part, in
a process of its own, whose largest resident size is printed. The exit code is 1 if that of the large file is more
than 5 % above that of the small one.

Usage: python tools/check_streaming.py [--megabytes 100 1000] [--steps 20] [--bundle tests/data/handmade/chat]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import edgepeft
from edgepeft import limits, memory

_BYTES_PER_MB = 10**6
_MAX_RATIO = 1.05
_HELD_OUT_ROWS = 200
#: Rows that are written at once.
_BLOCK_ROWS = 10_000


def write(path: Path, size: int) -> int:
    """Rows of unequal length, until the file has so many bytes; gives how many there are."""
    row = 0
    with path.open("w") as file:
        while file.tell() < size:
            lines = (
                json.dumps({"text": f"row {n} " + "and so on " * (n % 17)}) + "\n"
                for n in range(row, row + _BLOCK_ROWS)
            )
            file.write("".join(lines))
            row += _BLOCK_ROWS
    return row


def train(bundle: Path, data: Path, steps: int) -> dict[str, object]:
    """What the child process does."""
    model = edgepeft.load(bundle, threads=1)
    arguments = edgepeft.TrainingArguments(
        max_steps=steps, batch_size=4, gradient_accumulation=2, group_by_length=True, max_length=40
    )
    with data.open("rb") as file:
        held_out = [json.loads(file.readline()) for _ in range(_HELD_OUT_ROWS)]
    result = edgepeft.Trainer(model, arguments).fit(data, held_out)
    return {"steps": result.steps, "peak": memory.peak_bytes()}


def measure(bundle: Path, data: Path, steps: int) -> dict[str, object]:
    """Trains in a process of its own."""
    command = [sys.executable, __file__, "--child", str(data), "--bundle", str(bundle), "--steps", str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, object] = json.loads(done.stdout)
    return told


def main() -> int:
    """Prints a line a file; 1 if the memory grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs=2, default=(100, 1000))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parents[1] / "tests/data/handmade/chat")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(train(given.bundle, given.child, given.steps)))
        return 0
    peaks = []
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data.jsonl"
            rows = write(data, megabytes * _BYTES_PER_MB)
            assert data.stat().st_size > limits.MAX_HELD_FILE_BYTES, "so small a file is held"
            told = measure(given.bundle, data, given.steps)
        peaks.append(int(str(told["peak"])))
        print(
            f"{megabytes:>6,} MB, {rows:>12,} rows, {told['steps']} steps: "
            f"peak RSS {peaks[-1] / _BYTES_PER_MB:.1f} MB"
        )
    ratio = peaks[1] / peaks[0]
    print(f"ratio {ratio:.3f}, at most {_MAX_RATIO} is allowed")
    return 0 if ratio <= _MAX_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
