"""The commands: each reads its options, makes a few calls of the library, and prints."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from edgepeft import board, estimate, names, schedules, store
from edgepeft.arguments import DEFAULT_EPOCHS, TrainingArguments
from edgepeft.callbacks import Callback, TrainingResult, held_out_text
from edgepeft.cli.output import AdapterOutput
from edgepeft.cli.shared import (
    DATA,
    adapter_option,
    bundle_argument,
    check_adapter_output,
    check_places,
    json_option,
    max_length_option,
    print_json,
    resolved,
    tell_cut,
    threads_option,
    was_given,
)
from edgepeft.errors import ArgumentError, BundleError
from edgepeft.guest import BOARD_DEGREES, MAX_MEMORY_BYTES, PC_DEGREES, Guest
from edgepeft.log import JsonLinesLog
from edgepeft.model import Model, load
from edgepeft.progress import progress
from edgepeft.report import HtmlReport
from edgepeft.training import CHECKPOINT, Trainer
from edgepeft.units import BYTES_PER_MB, duration_text, size_text


def _option(name: str, text: str, kind: Any = int) -> Callable[[Any], Any]:
    """An option that sets a field of `TrainingArguments`, whose default is shown, and taken if the bundle has no other."""
    default = DEFAULT_EPOCHS if name == "epochs" else getattr(TrainingArguments, name)
    shown = False if default is None else str(default)
    return click.option(f"--{name.replace('_', '-')}", name, type=kind, show_default=shown, help=text)


@click.command(epilog="\b\nExample:\n  edgepeft train bundle/ --data facts.jsonl --output alice/ --epochs 3")
@bundle_argument
@click.option("--data", type=DATA, required=True, help="File or folder to train on.")
@click.option("--eval", "eval_data", type=DATA, help="The same, to measure the loss on.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the trained adapter; an adapter that is there is replaced.",
)
@adapter_option
@click.option("--labels", help="Names of your own classes, separated by commas, instead of the bundle's.")
@_option("optimizer", "What makes the updates.", click.Choice(list(names.OPTIMIZERS)))
@_option("learning_rate", "The optimizer's step size.", float)
@_option(
    "lr_scheduler_type", "The learning rate's course after warm-up.", click.Choice(list(schedules.CURVES))
)
@_option("warmup_steps", "Steps in which the learning rate rises.")
@_option("epochs", "Passes over the data.")
@_option("max_steps", "Updates to make, instead of epochs.")
@_option("max_seconds", "Stop after so long, whatever is left to do.", float)
@_option("batch_size", "Rows that are run at once.")
@_option("gradient_accumulation", "Batches that make one update.")
@_option("momentum", "SGD's momentum.", float)
@_option("weight_decay", "AdamW's decoupled decay, or SGD's L2 penalty.", float)
@_option("max_grad_norm", "Largest norm of the gradient.", float)
@_option("seed", "Seed of the order of rows.")
@_option("max_length", "Cut longer rows to this.")
@click.option(
    "--group-by-length", is_flag=True, default=None, help="Make batches of rows that are about equally long."
)
@_option("evaluate_every", "Steps between evaluations.")
@_option("checkpoint_every", "Steps between checkpoints.")
@_option("early_stopping_patience", "Stop after so many evaluations without a lower loss.")
@click.option(
    "--load-best-model-at-end",
    is_flag=True,
    default=None,
    help="Keep the adapter with the lowest held-out loss; of a run stopped before it measured a trained one, the last.",
)
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), help="JSON Lines of every step, appended to."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file that tells of the run: curves, data, settings, and a few held-out rows before and after.",
)
@click.option(
    "--max-temperature",
    type=float,
    help="Pause while the machine is hotter, in degrees Celsius; inf for never. By default "
    f"{BOARD_DEGREES:g} on a board, {PC_DEGREES:g} elsewhere.",
)
@click.option(
    "--min-battery",
    type=float,
    default=Guest.min_battery,
    show_default=True,
    help="Pause while it runs on a battery with less charge left, in per cent.",
)
@click.option(
    "--nice", type=int, default=Guest.nice, show_default=True, help="Priority, from 0 to 19, the lowest."
)
@click.option(
    "--max-memory",
    type=float,
    help="Memory that the training may take, in MB; by default what is available. A batch that does not fit is run in "
    "parts, for the same update; if one row does not fit, the run is refused.",
)
@click.option("--checkpoint-dir", type=click.Path(path_type=Path), help="Folder of the checkpoint.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if there is one.")
@threads_option
@json_option
def train(
    *,
    bundle: Path,
    data: Path,
    eval_data: Path | None,
    output: Path,
    adapter: Path | None,
    labels: str | None,
    checkpoint_dir: Path | None,
    resume: bool,
    log: Path | None,
    report: Path | None,
    max_temperature: float | None,
    min_battery: float,
    nice: int,
    max_memory: float | None,
    threads: int | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Trains an adapter of BUNDLE on your data and saves it as HF PEFT does.

    A setting that is not given is the bundle's, which `edgepeft info` shows, or else the default in brackets.

    It is a good guest: it runs at a low priority, within the memory that is available, and pauses while the machine is
    too hot, throttled, short of voltage or on a low battery.

    Ctrl-C or SIGTERM stops after the running step, saves what has been learned, and gives exit code 1. An adapter
    that is there already is not replaced then. A second one ends at once, and saves nothing.
    """
    guest = Guest(
        max_temperature=max_temperature,
        min_battery=min_battery,
        nice=nice,
        max_memory=None if max_memory is None else _bytes(max_memory),
    )
    others = {"--report": report, "--log": log, "--checkpoint-dir": checkpoint_dir}
    check_places({"--output": output, **others}, [data, eval_data])
    check_adapter_output(output)
    _check_apart(output, others)
    if checkpoint_dir is not None:
        store.check_writable(checkpoint_dir / CHECKPOINT)
    model = load(bundle, adapter, threads=threads)
    for line in _unheeded(guest, model):
        click.echo(line, err=True)
    if labels is not None:
        _name_classes(model, labels)
    arguments = default_arguments(
        model, {name: value for name, value in settings.items() if value is not None}
    )
    trainer = Trainer(model, arguments)
    saved = AdapterOutput(output)
    console = Console(stderr=True)
    callbacks: list[Callback] = [saved, progress(console, breaks_off=model.engine.breaks_off_steps)]
    if report is not None:
        callbacks.append(HtmlReport(report, trainer, tell=console.print))
    if log is not None:
        callbacks.append(JsonLinesLog(log))
    result = trainer.fit(
        data,
        eval_data,
        callbacks=callbacks,
        checkpoint_dir=checkpoint_dir,
        resume=resume,
        guest=guest,
    )
    if as_json:
        summary = _summary(result, saved) | {"report": None if report is None else str(report)}
        print_json(summary | {"losses": result.losses, "arguments": dataclasses.asdict(arguments)})
    else:
        click.echo(_told(result, saved, report, can_resume=checkpoint_dir is not None))
    if result.stop_reason == "stopped":
        raise click.exceptions.Exit(1)


def _bytes(megabytes: float) -> int:
    most = MAX_MEMORY_BYTES / BYTES_PER_MB
    if not 0 < megabytes <= most:
        raise ArgumentError(
            f"--max-memory is {megabytes:g}; expected megabytes, more than 0 and at most {most:,.0f}."
        )
    return math.ceil(megabytes * BYTES_PER_MB)


def _unheeded(guest: Guest, model: Model) -> Iterator[str]:
    """A line for each limit that was asked for and cannot be kept; one that was not is not missed."""
    now = board.sensors(board.ROOT)
    if guest.max_temperature not in (None, math.inf) and now.temperature is None:
        yield "--max-temperature is not heeded: this machine tells no temperature"
    if was_given("min_battery") and guest.min_battery > 0 and now.battery is None:
        yield "--min-battery is not heeded: this machine tells of no battery"
    needed = estimate.training_memory(model.bundle.manifest, 1, engine=model.engine.name)
    if guest.max_memory is not None and needed is None:
        yield "--max-memory is not heeded: the bundle does not tell what a training takes"


def _name_classes(model: Model, labels: str) -> None:
    """Gives the adapter in use the names that the user has for the classes."""
    if model.bundle.manifest.classes is None:
        task = model.bundle.manifest.task
        raise ArgumentError(
            f"--labels names a classifier's classes; {model.bundle.path} is none, its task is {task}. Leave it out."
        )
    try:
        named = model.adapter.with_labels([label.strip() for label in labels.split(",")])
    except ArgumentError as error:  # which begins with its argument's name
        raise ArgumentError(f"--{error}") from error
    model.use(named)


def _check_apart(output: Path, others: Mapping[str, Path | None]) -> None:
    """What a run writes beside the adapter is not in its folder, which would then not be replaced; nor in one file."""
    folder = resolved(output)
    for option, path in others.items():
        if path is not None and folder in (resolved(path), *resolved(path).parents):
            raise ArgumentError(
                f"{option} {path} is in --output, which holds the adapter alone. Choose another place."
            )
    log, report = others["--log"], others["--report"]
    if log is not None and report is not None and resolved(log) == resolved(report):
        raise ArgumentError(f"--log and --report are both {log}. Give each a file of its own.")


def _told(result: TrainingResult, saved: AdapterOutput, report: Path | None, *, can_resume: bool) -> str:
    """A run's result in a line."""
    held_out = held_out_text(result, ".3f", "->")
    written = f"{saved.written}: {size_text(result.adapter.size)}" if saved.written else "no adapter"
    parts = [
        f"{written} after {result.steps} of {saved.total_steps} steps of {duration_text(result.seconds_per_step)}",
        *([] if held_out is None else [f"held-out loss {held_out}"]),
        f"peak memory {size_text(result.peak_memory_bytes)}",
        *([f"paused for {duration_text(result.paused_seconds)}"] if result.paused_seconds else []),
    ]
    endings = {
        "finished": [],
        "early_stopping": ["stopped early, the held-out loss no longer fell"],
        "max_seconds": ["stopped, the time was up"],
        "stopped": [
            "stopped by a signal",
            *([f"{saved.folder} was left as it is"] if saved.written not in (None, saved.folder) else []),
            *(["go on with --resume and the same --checkpoint-dir"] if can_resume else []),
        ],
    }
    if result.steps < saved.first_step and result.stop_reason in ("finished", "early_stopping"):
        endings[result.stop_reason] = ["the run was finished already: nothing was trained now"]
    replaced = ["replaced the adapter that was there"] if saved.replaced else []
    told = [] if report is None else [f"see {report}"]
    return "; ".join([", ".join(parts), *replaced, *endings[result.stop_reason], *told])


def default_arguments(model: Model, given: dict[str, Any]) -> TrainingArguments:
    """What the user gave, over what the bundle recommends."""
    defaults = dict(model.bundle.manifest.training)
    unknown = defaults.keys() - {field.name for field in dataclasses.fields(TrainingArguments)}
    if unknown:
        raise BundleError(
            f"{model.bundle.path}: recommends {min(unknown)!r} for training, which this edgepeft does not know. "
            "Update edgepeft."
        )
    if "max_steps" in given:
        defaults.pop("epochs", None)
    if "epochs" in given:
        defaults.pop("max_steps", None)
    return TrainingArguments(**(defaults | given))


def _summary(result: TrainingResult, saved: AdapterOutput) -> dict[str, Any]:
    return {
        "adapter": None if saved.written is None else str(saved.written),
        "adapter_bytes": None if saved.written is None else result.adapter.size,
        "replaced": saved.replaced,
        "first_step": saved.first_step,
        "steps": result.steps,
        "seconds": result.seconds,
        "paused_seconds": result.paused_seconds,
        "seconds_per_step": result.seconds_per_step,
        "samples_per_second": result.samples_per_second,
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_bytes": result.peak_memory_bytes,
        "evaluation_losses": result.evaluation_losses,
        "adapter_step": result.adapter_step,
        "held_out_loss": result.held_out_loss,
        "stop_reason": result.stop_reason,
        "truncated_rows": result.truncated_rows,
        "rows_at_once": result.rows_at_once,
    }


@click.command(epilog="\b\nExample:\n  edgepeft evaluate bundle/ --data heldout.jsonl --adapter alice/")
@bundle_argument
@click.option("--data", type=DATA, required=True, help="File or folder to measure on.")
@adapter_option
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Rows run at once."
)
@max_length_option
@threads_option
@json_option
def evaluate(
    *,
    bundle: Path,
    data: Path,
    adapter: Path | None,
    batch_size: int,
    max_length: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measures the mean loss of BUNDLE on data, and a classifier's accuracy."""
    model = load(bundle, adapter, threads=threads)
    rows = model.open_data(data, max_length)
    tell_cut(rows, max_length)
    result = model.evaluate(rows, batch_size)
    if as_json:
        print_json(result)
    else:
        click.echo(
            ", ".join(
                f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}"
                for name, value in result.items()
            )
        )
