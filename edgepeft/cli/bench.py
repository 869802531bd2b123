"""`edgepeft bench`: how fast a training on this machine is, as a table to paste."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from edgepeft import bench as measuring
from edgepeft import board, estimate, memory, names, ort_package
from edgepeft.arguments import MAX_BATCH_ROWS, TrainingArguments
from edgepeft.bundle import read_manifest
from edgepeft.cli.shared import bundle_argument, json_option, plain, print_json, threads_option, was_given
from edgepeft.engines.choice import choose
from edgepeft.errors import ArgumentError, MemoryLimitError
from edgepeft.guest import Guest, Planning
from edgepeft.manifest import Manifest
from edgepeft.model import load
from edgepeft.units import BYTES_PER_MB

_EMULATED = "emulated: these times say nothing about a board, and are not to be compared with any."


@click.command(epilog="\b\nExample:\n  edgepeft bench bundle/ --batch-size 2")
@bundle_argument
@click.option(
    "--batch-size",
    type=click.IntRange(min=1, max=MAX_BATCH_ROWS),
    default=4,
    show_default=True,
    help="Rows run at once.",
)
@click.option(
    "--length",
    type=click.IntRange(min=2),
    default=128,
    show_default=True,
    help="Length of the rows, where they have one.",
)
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps that count.")
@threads_option
@json_option
def bench(
    *, bundle: Path, batch_size: int, length: int, steps: int, threads: int | None, as_json: bool
) -> None:
    """Measures training steps on BUNDLE with random rows, and prints a table in Markdown.

    A step is forward, backward, clipping and AdamW. Time is the median, least and most of those that count; a board that
    slowed down meanwhile is called so. Ctrl-C ends it early, with a table of the steps so far, if any counts.
    """
    manifest = read_manifest(bundle)
    rows_length = _length(manifest, length)
    engine = choose(manifest).engine
    _check_memory(manifest, engine, batch_size, rows_length or 1)
    model = load(bundle, threads=threads)
    found = measuring.measure(model, batch_size, rows_length or 1, steps, board.ROOT)
    machine = board.board(board.ROOT)
    package = ort_package.installed()
    used = machine.usable_cores if threads is None else threads
    expected = estimate.training_memory(manifest, batch_size, rows_length or 1, engine=engine)
    seconds = None if machine.emulated else found.median_seconds
    facts = {
        "machine": machine.model or machine.processor or machine.architecture,
        "emulated": machine.emulated,
        "model": manifest.model.name,
        "edgepeft": version("edgepeft"),
        "onnxruntime": f"{package.name} {package.version}",
        "engine": engine,
        "threads": used,
        "batch_size": batch_size,
        "length": rows_length,
        "expected_memory_bytes": None if expected is None else round(expected.total),
        "median_seconds": seconds,
        "samples_per_second": None if seconds is None else found.samples / seconds,
        "tokens_per_second": None if seconds is None or not found.tokens else found.tokens / seconds,
        "steps": len(found.seconds),
    } | {
        name: value for name, value in dataclasses.asdict(found).items() if name not in ("samples", "tokens")
    }
    if machine.emulated:
        facts["seconds"] = None
    if as_json:
        print_json(facts)
    else:
        click.echo(_table(facts))
    if found.interrupted:
        raise click.exceptions.Exit(1)


def _length(manifest: Manifest, length: int) -> int | None:
    """The length of the rows, no longer than the model takes; `None` where they have none.

    Raises:
        ArgumentError: One was asked for where they have none.
    """
    given = was_given("length")
    if not estimate.has_length(manifest.graph(names.TRAIN)):
        if given:
            raise ArgumentError(
                f"--length is for rows that have one; those of {manifest.model.name} have none. Leave it out."
            )
        return None
    most = manifest.text.max_length if manifest.text else length
    if length > most and given:
        click.echo(f"length {most}: the model takes no more", err=True)
    return min(length, most)


def _check_memory(manifest: Manifest, engine: str, batch_size: int, length: int) -> None:
    """A batch that does not fit would have the system end the program, or others."""
    arguments = TrainingArguments(batch_size=batch_size)
    planning = Planning(Guest(root=board.ROOT), manifest, engine, arguments, memory.resident())
    try:
        planning.longer(length)
    except MemoryLimitError as error:  # which tells of settings that a measurement has not
        todo = "Lower --length, or end" if estimate.has_length(manifest.graph(names.TRAIN)) else "End"
        raise MemoryLimitError(
            f"not even one row of this model would fit into the memory that is available. {todo} other programs."
        ) from error
    if planning.plan.rows < batch_size:
        raise ArgumentError(
            f"batch_size is {batch_size}; expected at most {planning.plan.rows}: more rows of this model would not fit into the "
            "memory that is available."
        )


def _table(facts: dict[str, Any]) -> str:
    """Markdown, of a row, with what it was measured on."""
    rate = "tokens" if facts["tokens_per_second"] is not None else "samples"
    cells = {
        "machine": facts["machine"] + (" (emulated)" if facts["emulated"] else ""),
        "engine": facts["engine"],
        "batch": str(facts["batch_size"]) + ("" if facts["length"] is None else f" x {facts['length']}"),
        "step, s: median (min..max)": _step(facts["seconds"]),
        f"{rate}/s": _number(facts[f"{rate}_per_second"], ",.1f"),
        "peak RSS, MB": f"{facts['peak_memory_bytes'] / BYTES_PER_MB:,.0f}",
        "hottest, °C": _number(facts["temperature"], ".1f"),
        "W": _number(facts["watts"], ".1f"),
    }
    lines = ["| " + " | ".join(_cell(each) for each in row) + " |" for row in (cells, cells.values())]
    lines.insert(1, "|---" * len(cells) + "|")
    about = (
        f"{facts['model']}; edgepeft {facts['edgepeft']}, {facts['onnxruntime']}, threads {facts['threads']}, "
        f"median of {facts['steps']} steps{', then interrupted' if facts['interrupted'] else ''}"
    )
    notes = [plain(about).plain]
    if facts["throttling"]:
        notes.append(f"slowed down by the board meanwhile: {', '.join(facts['throttling'])}")
    if facts["emulated"]:
        notes.append(_EMULATED)
    return "\n".join([*lines, "", *notes])


def _step(seconds: Sequence[float] | None) -> str:
    if seconds is None:
        return "-"
    median, least, most = (_seconds(pick(seconds)) for pick in (statistics.median, min, max))
    return f"{median} ({least}..{most})"


def _seconds(value: float) -> str:
    """Three significant digits, hundredths at least, and one unit for all: tables of several machines are compared."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value)))}f}"


def _cell(text: str) -> str:
    return plain(text).plain.replace("|", "/")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
