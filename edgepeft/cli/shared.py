"""What several commands share: arguments, options, and how answers are printed."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgepeft import board, names, store, text
from edgepeft.adapter import holds_an_adapter_only
from edgepeft.data import Dataset
from edgepeft.engines.choice import choose
from edgepeft.errors import ArgumentError, EngineError, StorageError
from edgepeft.limits import MAX_THREADS
from edgepeft.manifest import Manifest
from edgepeft.model import Model

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
DATA = click.Path(exists=True, path_type=Path)

#: What is a folder or file itself, and not put into one: whoever writes it says whether it may take an adapter's place.
_TAKES_ITS_PLACE = ("--output", "OUTPUT")

#: Columns of a table that no terminal shows: a tensor's name stays on its line.
_PIPE_COLUMNS = 200

#: Columns of a bar that is full.
_BAR_COLUMNS = 40

bundle_argument = click.argument("bundle", type=FOLDER)
adapter_option = click.option(
    "--adapter", type=FOLDER, help="Adapter to use; by default the bundle's own, untrained."
)


def _told_if_many(context: click.Context, _: click.Parameter, threads: int | None) -> int | None:
    """More threads than cores wait for each other: as many as there are cores are used, and that is told.

    Not while a shell completes a line.
    """
    if threads is None or threads > MAX_THREADS or context.resilient_parsing:
        return threads
    cores = board.usable_cores(board.ROOT)
    if threads > cores:
        click.echo(
            f"--threads {threads} is more than the physical cores that may be used here, {cores}: so many are used",
            err=True,
        )
    return min(threads, cores)


threads_option = click.option(
    "--threads",
    type=int,
    callback=_told_if_many,
    help="Threads to compute with; by default one a physical core, and never more.",
)
max_length_option = click.option("--max-length", type=int, help="Cut longer rows to this.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


def was_given(parameter: str) -> bool:
    """Whether the running command was given an option, rather than took its default."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is not click.core.ParameterSource.DEFAULT


def tell_cut(rows: Dataset, max_length: int | None) -> None:
    """Says how many rows are cut, on standard error; nothing if none is."""
    if max_length is not None and rows.truncated_rows != 0:
        told = "rows that are longer" if rows.truncated_rows is None else f"{rows.truncated_rows} rows"
        click.echo(f"{told} are cut to {max_length}", err=True)


def print_json(facts: dict[str, Any]) -> None:
    """One JSON object; a number that JSON cannot write, such as infinity, becomes null."""
    click.echo(json.dumps(_jsonable(facts), allow_nan=False))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Console:
    """Standard output, for tables and drawings."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)


def plain(value: object) -> Text:
    """A value from a file as text that cannot steer the terminal."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in str(value)))


def print_rows(rows: dict[str, Any]) -> None:
    """Prints names and values in two columns."""
    table = Table("", "", show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(plain(name), plain(value))
    if rows:
        console().print(table)


def bar(share: float) -> Text:
    """A share of a whole, from 0 to 1, as a bar; what is more than nothing is seen."""
    return Text("\u2588" * (round(share * _BAR_COLUMNS) or (1 if share else 0)), style="cyan")


def is_taken(folder: Path) -> bool:
    """Whether a folder is there with something in it.

    Raises:
        StorageError: It cannot be looked into.
    """
    with store.refusals(folder):
        return folder.is_dir() and any(folder.iterdir())


def check_is_language_model(model: Model) -> text.Text:
    """Refuses a model that cannot be asked in words, and names the command for it.

    Returns:
        Its tokenizer.

    Raises:
        ArgumentError: It is another kind of model, or has no tokenizer.
    """
    path, task = model.bundle.path, model.bundle.manifest.task
    if task != "causal_lm":
        raise ArgumentError(f"{path}: is no language model, its task is {task}; use predict.")
    if model.text is None:
        raise ArgumentError(f"{path}: has no tokenizer, so it cannot be asked in words. Export it with one.")
    return model.text


def check_adapter_output(output: Path) -> None:
    """Refuses a folder that cannot become an adapter's before the time is spent, not after.

    Raises:
        StorageError: It is a link, holds something else, or cannot be written.
    """
    with store.refusals(output):
        taken = output.is_symlink() or (output.exists() and not holds_an_adapter_only(output))
    if taken:
        raise StorageError(f"{output}: exists and is not an adapter's folder. Choose another --output.")
    store.check_writable(output)


def check_places(written: Mapping[str, Path | None], data: Iterable[Path | None] = ()) -> None:
    """Refuses to write where something is read from.

    Args:
        written: Places by what they are called on the command line.
        data: Files and folders of data.

    Raises:
        ArgumentError: A place is in a bundle, which is refused once there is a file more in it; in a folder of
            data, where it would be taken for data; or in an adapter's folder, which would no longer be replaced.
    """
    folders = {resolved(path) for path in data if path is not None and path.is_dir()}
    for name, path in written.items():
        place = None if path is None else resolved(path)
        for folder in () if place is None else (place, *place.parents):
            if _is_bundle(folder):
                raise ArgumentError(
                    f"{name} {path} is in the bundle {folder}, whose files are all listed. Choose another place."
                )
            if folder in folders:
                raise ArgumentError(
                    f"{name} {path} is in the folder of data {folder}, where it would be data. Choose another place."
                )
            if (folder != place or name not in _TAKES_ITS_PLACE) and _is_adapter(folder):
                raise ArgumentError(
                    f"{name} {path} is in the adapter's folder {folder}, which holds it alone. Choose another place."
                )


def resolved(path: Path) -> Path:
    """Where a path leads; a loop of links is left for whoever opens it to refuse."""
    return Path(os.path.realpath(path))


def _is_bundle(folder: Path) -> bool:
    with store.refusals(folder):
        return all((folder / name).is_file() for name in (names.MANIFEST, names.BASE))


def _is_adapter(folder: Path) -> bool:
    with store.refusals(folder):
        there = all((folder / name).is_file() for name in (names.ADAPTER_CONFIG, names.ADAPTER_MODEL))
        return there and holds_an_adapter_only(folder)


def engine_facts(manifest: Manifest) -> dict[str, str | None]:
    """The engine that would run a bundle here, and why; or why none can."""
    try:
        choice = choose(manifest)
    except EngineError as error:
        return {"engine": None, "engine_reason": str(error)}
    return {"engine": choice.engine, "engine_reason": choice.why}


def engine_text(facts: Mapping[str, Any]) -> str:
    """What `engine_facts` found, as a line."""
    runs = f"{facts['engine']} would run" if facts["engine"] else "none can run"
    return f"{runs}: {facts['engine_reason']}"
