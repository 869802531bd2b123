"""How far the memory that edgepeft predicts for a training is from what the training takes.

Each case trains for some steps on random rows in a process of its own, whose peak resident size is read.

Usage: python tools/bench_memory.py BUNDLE [--batch-sizes 1,4] [--lengths 64,256]
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

from edgepeft import estimate, names
from edgepeft import manifest as schema
from edgepeft.limits import MiB

_STEPS = 2
_THREADS = 2

#: A training whose rows all have one length.
_PROGRAM = """
import json, sys
import numpy as np
import edgepeft
from edgepeft import names

bundle, rows, length, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
model = edgepeft.load(bundle, threads=threads)
assert model.text is None or model.text.info  # a training on text loads the tokenizer
random = np.random.default_rng(0)

def array(port):
    shape = [size if isinstance(size, int) else length for size in port.shape[1:]]
    if port.dtype == "float32":
        return random.standard_normal(shape).astype(np.float32)
    return np.ones(shape, np.int64)

ports = model.bundle.manifest.data_inputs(names.TRAIN)
data = [{port.name: array(port) for port in ports} for _ in range(rows * steps)]
arguments = edgepeft.TrainingArguments(batch_size=rows, max_steps=steps, learning_rate=1e-5)
print(edgepeft.Trainer(model, arguments).fit(data).peak_memory_bytes)
"""


def measured(bundle: Path, rows: int, length: int) -> int:
    """Peak resident bytes of a training."""
    command = [sys.executable, "-c", _PROGRAM, str(bundle), *map(str, (rows, length, _STEPS, _THREADS))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Prints a table, and the largest error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch-sizes", default="1,4,8")
    parser.add_argument("--lengths", default="64,128,256")
    given = parser.parse_args()
    manifest = schema.decode((given.bundle / names.MANIFEST).read_bytes())
    lengths = given.lengths if estimate.has_length(manifest.graphs[names.TRAIN]) else "1"
    worst = 0.0
    print("| batch | length | predicted, MiB | measured, MiB | error |\n|---|---|---|---|---|")
    for rows, length in itertools.product(
        *([int(n) for n in text.split(",")] for text in (given.batch_sizes, lengths))
    ):
        predicted = estimate.training_memory(manifest, rows, length)
        if predicted is None:
            sys.exit(f"{given.bundle}: its manifest says nothing about memory; export it again")
        got = measured(given.bundle, rows, length)
        error = predicted.total / got - 1
        worst = max(worst, abs(error))
        print(
            f"| {rows} | {length} | {predicted.total / MiB:,.0f} | {got / MiB:,.0f} | {error:+.0%} |",
            flush=True,
        )
    print(f"largest error: {worst:.0%}")


if __name__ == "__main__":
    main()
