"""The command `edgepeft-export`."""

import functools
import importlib
import inspect
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from tqdm import tqdm

from edgepeft.cli.group import Group
from edgepeft.cli.shared import console, print_json
from edgepeft.units import size_text
from edgepeft_export.errors import ExportError

_STAGES = ("attach", "trace", "lower", "passes", "pack", "verify")
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(path_type=Path)
#: What a factory gives at least.
_NEEDED = ("model", "example_inputs", "loss", "adapter")
_TASK = click.Choice(["causal_lm", "sequence_classification"])


def quiet_libraries() -> None:
    """Silences what other libraries say about themselves."""
    warnings.simplefilter("ignore")
    tqdm.__init__ = functools.partialmethod(
        tqdm.__init__, disable=True
    )  # its variable is read at import: too late
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


@click.group("edgepeft-export", cls=Group)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="edgepeft")
def main(*, debug: bool) -> None:
    """Exports a PyTorch model to a bundle that edgepeft adapts on a device."""
    del debug  # Group reads it
    quiet_libraries()


@main.command(
    "hf", epilog="Example: edgepeft-export hf SmolLM2-135M-Instruct bundle/ --target-modules q_proj,v_proj"
)
@click.argument("folder", type=_FOLDER)
@click.argument("output", type=_NEW_FOLDER)
@click.option("--task", type=_TASK, default="causal_lm", show_default=True, help="What the model does.")
@click.option("--labels", help="Names of a classifier's classes, separated by commas.")
@click.option("--rank", default=8, show_default=True, help="LoRA's rank.")
@click.option(
    "--alpha", default=16, show_default=True, help="LoRA's alpha; the update is scaled by alpha / rank."
)
@click.option(
    "--target-modules", default="q_proj,v_proj", show_default=True, help="Modules that LoRA adapts."
)
@click.option(
    "--adapter-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An adapter_config.json of HF PEFT instead, for any of its methods.",
)
@click.option("--no-verify", is_flag=True, help="Do not compare the bundle with PyTorch.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def hf(
    *,
    folder: Path,
    output: Path,
    task: str,
    labels: str | None,
    rank: int,
    alpha: int,
    target_modules: str,
    adapter_config: Path | None,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Exports a Hugging Face FOLDER, or one with a GGUF file, with an adapter to the bundle OUTPUT."""
    from edgepeft_export.hf import PEFT_TASKS, load_folder  # noqa: PLC0415 - torch takes seconds, --help should not

    config: Mapping[str, Any]
    if adapter_config is not None:
        config = _adapter_config(adapter_config)
    else:
        config = {
            "peft_type": "LORA",
            "task_type": PEFT_TASKS[task],
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": target_modules.split(","),
        }
    source = load_folder(folder, task, labels.split(",") if labels else None)
    _export(output, {**vars(source), "adapter": config, "check": not no_verify}, as_json=as_json)


@main.command("torch", epilog="Example: edgepeft-export torch samples/net.py:make bundle/")
@click.argument("factory")
@click.argument("output", type=_NEW_FOLDER)
@click.option("--no-verify", is_flag=True, help="Do not compare the bundle with PyTorch.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def torch_(*, factory: str, output: Path, no_verify: bool, as_json: bool) -> None:
    """Exports what FACTORY gives: module:function, called without arguments.

    It returns the keyword arguments of edgepeft_export.export: model, example_inputs, loss and adapter at least.
    """
    _export(output, {**_call_factory(factory), "check": not no_verify}, as_json=as_json)


@main.command("verify", epilog="Example: edgepeft-export verify bundle/ --hf SmolLM2-135M-Instruct")
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--hf", "folder", type=_FOLDER, help="The Hugging Face folder that the bundle was exported from."
)
@click.option("--torch", "factory", help="The module:function that the bundle was exported from.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def verify_(*, bundle: Path, folder: Path | None, factory: str | None, as_json: bool) -> None:
    """Compares loss, outputs, every gradient and 20 training steps of BUNDLE with PyTorch."""
    if (folder is None) == (factory is None):
        raise click.UsageError(
            "give the model that the bundle was exported from: --hf FOLDER or --torch FACTORY"
        )
    from edgepeft.bundle import Bundle  # noqa: PLC0415
    from edgepeft_export import verify_model  # noqa: PLC0415
    from edgepeft_export.hf import PEFT_TASKS, load_folder  # noqa: PLC0415

    opened = Bundle.open(bundle)
    task = opened.manifest.task
    if folder is not None and task not in PEFT_TASKS:
        raise click.UsageError(f"{bundle} is of no Hugging Face task ({task}): give --torch FACTORY")
    if folder is not None:
        source: Mapping[str, Any] = vars(load_folder(folder, task, opened.manifest.labels))
    else:
        source = _call_factory(str(factory))
    report = verify_model(
        opened,
        source["model"],
        source["example_inputs"],
        loss=source["loss"],
        dynamic_axes=source.get("dynamic_axes"),
        seed=source.get("seed", 0),
    )
    _print_report(report, as_json=as_json)


@main.command("ort-training", epilog="Example: edgepeft-export ort-training bundle/")
@click.argument("bundle", type=_FOLDER)
@click.option(
    "--environment",
    type=click.Path(file_okay=False, path_type=Path),
    help="Virtual environment for onnxruntime-training, made with pip if there is none; by default in the cache.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def ort_training_(*, bundle: Path, environment: Path | None, as_json: bool) -> None:
    """Adds to BUNDLE what engine ort-training takes, and compares its gradients with the stock engine's.

    It works in an environment of its own: onnxruntime-training and onnxruntime overwrite each other.
    """
    from edgepeft_export.ort_training import STAGES, add_ort_training  # noqa: PLC0415

    with show_stages(STAGES) as stage:
        report = add_ort_training(bundle, environment, stage)
    _print_report(report, as_json=as_json)


@main.command("inspect", epilog="Example: edgepeft-export inspect bundle/")
@click.argument("bundle", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect_(*, bundle: Path, as_json: bool) -> None:
    """Shows the graphs of BUNDLE: nodes by operator, inputs, outputs, weights, and where the bytes go."""
    from edgepeft.bundle import Bundle  # noqa: PLC0415
    from edgepeft_export.survey import drawing, survey  # noqa: PLC0415

    found = survey(Bundle.open(bundle))
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        console().print(drawing(found))


def _adapter_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError("attach", f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ExportError("attach", f"{path}: expected an adapter_config.json of HF PEFT, with a peft_type")
    return config


def _call_factory(text: str) -> Mapping[str, Any]:
    """Imports module:function, from the working folder too, calls it, and checks what it gave."""
    from edgepeft_export import export  # noqa: PLC0415

    module_name, _, function = text.rpartition(":")
    if not module_name:
        raise click.UsageError(f"{text!r} is no factory: expected module:function")
    if module_name.endswith(".py"):
        sys.path.insert(0, str(Path(module_name).parent.absolute()))
        module_name = Path(module_name).stem
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ExportError("attach", f"cannot find {text}: {error}") from error
    found: Any = factory()
    missing = [name for name in _NEEDED if not isinstance(found, Mapping) or name not in found]
    if missing:
        got = ", ".join(map(str, found)) or "nothing" if isinstance(found, Mapping) else type(found).__name__
        raise ExportError(
            "attach",
            f"{text} gave {got}; expected a mapping with {', '.join(_NEEDED)}, arguments of edgepeft_export.export.",
        )
    known = inspect.signature(export).parameters.keys() - {"output", "check", "progress"}
    unknown = next((str(name) for name in found if name not in known), None)
    if unknown is not None:
        raise ExportError(
            "attach", f"{text} gave {unknown!r}, which edgepeft_export.export does not take from it."
        )
    return dict(found)


def _export(output: Path, arguments: Mapping[str, Any], *, as_json: bool) -> None:
    from edgepeft_export import export  # noqa: PLC0415

    started = time.perf_counter()
    with show_stages() as stage:
        report = export(output=output, progress=stage, **arguments)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    if as_json:
        rows = [vars(row) for row in report.rows]
        click.echo(json.dumps({"bundle": str(output), "bytes": size, "seconds": seconds, "verify": rows}))
        return
    if report.rows:
        click.echo(report.table())
    click.echo(f"{output}: {size_text(size)}, exported in {seconds:.0f} s")


def _print_report(report: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([vars(row) for row in report.rows]))
    else:
        click.echo(report.table())


@contextmanager
def show_stages(stages: Sequence[str] = _STAGES) -> Iterator[Callable[[str], None]]:
    """Shows the stage and its time: a spinner on a terminal, a line a stage in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage: console.print(
            f"{stage} ({stages.index(stage) + 1}/{len(stages)})", highlight=False
        )
        return
    started = time.perf_counter()
    with console.status("starting") as status:

        def show(stage: str) -> None:
            done = time.perf_counter() - started
            console.print(f"{done:6.1f} s  {stage}", highlight=False)
            status.update(f"{stage} ({stages.index(stage) + 1}/{len(stages)})")

        yield show
