"""How far the memory that edgepeft predicts for a training is from what the training takes.

Each case trains for some steps on random rows in a process of its own, whose peak resident size is read. Fails if a
prediction is further off than it may be: 20 % too high, or 10 % too low.

Usage: python tools/bench_memory.py BUNDLE... [--batch-sizes 1,4] [--lengths 64,256]
"""

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgepeft import estimate
from edgepeft.bundle import read_manifest
from edgepeft.engines.choice import choose
from edgepeft.units import BYTES_PER_MB

_STEPS = 2
_THREADS = 2

#: How far a prediction may be from what was measured: above it, and below it.
MOST_OVER, MOST_UNDER = 0.20, 0.10

#: A training whose rows all have one length.
_PROGRAM = """
import sys
import edgepeft
from edgepeft import bench

bundle, rows, length, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
model = edgepeft.load(bundle, threads=threads)
assert model.text is None or model.text.info  # a training on text loads the tokenizer
data = bench.random_rows(model.bundle.manifest, rows * steps, length)
arguments = edgepeft.TrainingArguments(batch_size=rows, max_steps=steps, learning_rate=1e-5)
print(edgepeft.Trainer(model, arguments).fit(data).peak_memory_bytes)
"""


class Case(NamedTuple):
    """A training, and its memory in bytes."""

    rows: int
    length: int | None
    predicted: float
    measured: int

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted / self.measured - 1

    @property
    def line(self) -> str:
        """A row of the table."""
        length = "" if self.length is None else self.length
        predicted, measured = (f"{size / BYTES_PER_MB:,.0f}" for size in (self.predicted, self.measured))
        return f"| {self.rows} | {length} | {predicted} | {measured} | {self.error:+.0%} |"


def cases(bundle: Path, batch_sizes: list[int], lengths: list[int]) -> Iterator[Case]:
    """A training for each batch size and length; one length where rows have none."""
    manifest = read_manifest(bundle)
    varies = estimate.has_length(manifest.graph("train"))
    for rows, length in itertools.product(batch_sizes, lengths if varies else [None]):
        predicted = estimate.training_memory(manifest, rows, length or 1, engine=choose(manifest).engine)
        if predicted is None:
            sys.exit(f"{bundle}: its manifest says nothing about memory; export it again")
        yield Case(rows, length, predicted.total, _measured(bundle, rows, length or 1))


def _measured(bundle: Path, rows: int, length: int) -> int:
    """Peak resident bytes of a training."""
    command = [sys.executable, "-c", _PROGRAM, str(bundle), *map(str, (rows, length, _STEPS, _THREADS))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Prints a table for each bundle, and the errors furthest up and down; 1 if one is too far."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--batch-sizes", default="1,4,8")
    parser.add_argument("--lengths", default="64,128,256")
    given = parser.parse_args()
    batch_sizes, lengths = ([int(n) for n in text.split(",")] for text in (given.batch_sizes, given.lengths))
    errors = []
    for bundle in given.bundles:
        print(f"{bundle}\n\n| batch | length | predicted, MB | measured, MB | error |\n|---|---|---|---|---|")
        for case in cases(bundle, batch_sizes, lengths):
            errors.append(case.error)
            print(case.line, flush=True)
        print()
    print(f"errors from {min(errors):+.0%} to {max(errors):+.0%}")
    return int(min(errors) < -MOST_UNDER or max(errors) > MOST_OVER)


if __name__ == "__main__":
    sys.exit(main())
