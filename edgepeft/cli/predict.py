"""`edgepeft predict`: what a model says of each row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgepeft import names
from edgepeft.cli.shared import (
    DATA,
    adapter_option,
    bundle_argument,
    max_length_option,
    print_json,
    tell_cut,
    threads_option,
)
from edgepeft.data import Dataset
from edgepeft.errors import ArgumentError
from edgepeft.model import Model, load
from edgepeft.tensors import Array


@click.command(epilog="\b\nExample:\n  edgepeft predict bundle/ --adapter mine/ --text 'Lunch on Friday?'")
@bundle_argument
@click.option("--data", type=DATA, help="File or folder of rows; labels are not needed.")
@click.option("--text", "texts", multiple=True, help="A text instead; may be given several times.")
@adapter_option
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Rows run at once."
)
@max_length_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def predict(
    *,
    bundle: Path,
    data: Path | None,
    texts: tuple[str, ...],
    adapter: Path | None,
    batch_size: int,
    max_length: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Prints what the model of BUNDLE says of each row, a line each.

    A classifier's line is its label and how likely that is; a regression's are its numbers; of any other model it is
    the outputs. A language model is asked by `generate` and `chat`.
    """
    if (data is None) == (not texts):
        raise click.UsageError("give the rows that are to be predicted: --data or --text, one of them.")
    model = load(bundle, adapter, threads=threads)
    if model.bundle.manifest.task == "causal_lm":
        raise ArgumentError(f"{bundle}: is a language model; use generate or chat.")
    if texts and model.text is None:
        raise ArgumentError(f"{bundle}: was exported without a tokenizer; give --data instead of --text.")
    rows = model.open_data(list(texts) if data is None else data, max_length, names.INFER)
    tell_cut(rows, max_length)
    for line, facts in _predictions(model, rows, batch_size):
        if as_json:
            print_json(facts)
        else:
            click.echo(line)


def _predictions(model: Model, rows: Dataset, batch_size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's line, and what JSON says of it."""
    manifest = model.bundle.manifest
    if manifest.classes is not None:
        for found in model.classify(rows, batch_size=batch_size):
            facts = {"label": found.label, "index": found.index, "probability": found.probability}
            line = f"{found.label}\t{found.probability:.4f}"
            yield line, facts | {"probabilities": dict(found.probabilities)}
    elif manifest.loss == "mse":
        for numbers in model.regress(rows, batch_size=batch_size):
            named = {"by_label": numbers.by_label} if numbers.labels else {}
            line = (
                "\t".join(f"{name} {value:.6g}" for name, value in numbers.by_label.items())
                if named
                else _line(numbers.values)
            )
            yield line, {"values": numbers.values.tolist()} | named
    else:
        for outputs in model.predict_rows(rows, batch_size=batch_size):
            line = "\t".join(f"{name} {_line(value)}" for name, value in outputs.items())
            yield line, {name: value.tolist() for name, value in outputs.items()}


def _line(values: Array) -> str:
    return " ".join(f"{value:.6g}" for value in values.reshape(-1).tolist())
