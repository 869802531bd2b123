"""`edgepeft adapter`: look into adapters, compare, average and export them."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from edgepeft import names
from edgepeft.adapter import Adapter, check_fits, says_something
from edgepeft.average import average
from edgepeft.bundle import Bundle
from edgepeft.cli.group import Group
from edgepeft.cli.shared import (
    FOLDER,
    bundle_argument,
    check_places,
    console,
    is_taken,
    json_option,
    plain,
    print_json,
    print_rows,
)
from edgepeft.compare import Comparison, Distance, compare
from edgepeft.errors import AdapterError, ArgumentError
from edgepeft.formats import FORMATS, export_adapter
from edgepeft.units import size_text

_adapter_argument = click.argument("adapter", type=FOLDER)
_output = click.Path(path_type=Path)

#: Settings that are shown by themselves, or are no property of the tensors.
_SHOWN_APART = ("peft_type", "r", "target_modules")


@click.group(cls=Group)
def adapter() -> None:
    """Looks into adapters, compares, averages and exports them."""


@adapter.command(epilog="\b\nExample:\n  edgepeft adapter show alice/ bundle/")
@_adapter_argument
@click.argument("bundle", type=FOLDER, required=False)
@json_option
def show(*, adapter: Path, bundle: Path | None, as_json: bool) -> None:
    """Shows what is in ADAPTER, and whether it fits BUNDLE."""
    loaded = Adapter.load(adapter)
    facts: dict[str, Any] = {
        "path": str(adapter),
        "peft_type": loaded.config.get("peft_type"),
        "rank": loaded.config.get("r"),
        "target_modules": loaded.config.get("target_modules"),
        "settings": {
            name: value
            for name, value in loaded.config.items()
            if says_something(name, value) and name not in _SHOWN_APART
        },
        "base_id": loaded.base_id,
        "labels": loaded.labels,
        "parameters": sum(value.size for value in loaded.tensors.values()),
        "bytes": loaded.size,
        "tensors": [
            {
                "name": name,
                "dtype": str(value.dtype),
                "shape": list(value.shape),
                "norm": float(np.linalg.norm(value.astype(np.float64).ravel())),
                "bytes": value.nbytes,
            }
            for name, value in sorted(loaded.tensors.items(), key=lambda item: names.natural(item[0]))
        ],
    }
    if bundle is not None:
        reason = _misfit(loaded, Bundle.open(bundle))
        facts |= {"bundle": str(bundle), "fits": reason is None, "reason": reason}
    if as_json:
        print_json(facts)
    else:
        _draw_adapter(facts)


def _misfit(adapter: Adapter, bundle: Bundle) -> str | None:
    """Why an adapter cannot be used with a bundle; `None` if it can."""
    try:
        check_fits(adapter, bundle.manifest, bundle.initial_adapter())
    except AdapterError as error:
        return str(error)
    return None


def _draw_adapter(facts: dict[str, Any]) -> None:
    rows = {
        "method": facts["peft_type"] or "not of PEFT",
        "rank": facts["rank"] or "",
        "target modules": _listed(facts["target_modules"] or ""),
        **{name.replace("_", " "): _listed(value) for name, value in facts["settings"].items()},
        "classes": ", ".join(facts["labels"]) if facts["labels"] else "the bundle's own",
        "base id": facts["base_id"] or "not said: made elsewhere",
        "size": f"{facts['parameters']:,} parameters, {size_text(facts['bytes'])}",
    }
    if "fits" in facts:
        rows["fits " + facts["bundle"]] = "yes" if facts["fits"] else f"no: {facts['reason']}"
    print_rows(rows)
    table = Table("tensor", "shape", "norm", box=None, header_style="bold")
    for tensor in facts["tensors"]:
        table.add_row(plain(tensor["name"]), str(tensor["shape"]), f"{tensor['norm']:.4g}")
    console().print(table)


def _listed(value: Any) -> str:
    return ", ".join(sorted(map(str, value), key=names.natural)) if isinstance(value, list) else str(value)


@adapter.command(epilog="\b\nExample:\n  edgepeft adapter diff alice/ bob/")
@click.argument("first", type=FOLDER)
@click.argument("second", type=FOLDER)
@json_option
def diff(*, first: Path, second: Path, as_json: bool) -> None:
    """Shows how far the adapter SECOND is from FIRST, the largest change first.

    Relative L2 is the norm of the difference by the larger of the two norms: 0 for equal tensors, 1 where one of
    them is zero.
    """
    found = compare(Adapter.load(first), Adapter.load(second))
    if as_json:
        facts = dataclasses.asdict(found)
        facts["tensors"] = [{"name": name, **distance} for name, distance in facts["tensors"].items()]
        print_json({"first": str(first), "second": str(second), **facts})
    else:
        _draw_comparison(found)


def _draw_comparison(found: Comparison) -> None:
    rows: dict[str, Any] = {
        name.replace("_", " "): f"{one} -> {other}" for name, (one, other) in found.settings.items()
    }
    if found.base_ids is not None:
        rows["base id"] = " -> ".join(str(base)[:12] for base in found.base_ids)
    if found.labels is not None:
        named = (", ".join(names) if names else "the bundle's own" for names in found.labels)
        rows["classes"] = " -> ".join(named)
    only = {
        "only in the first": found.only_in_first,
        "only in the second": found.only_in_second,
        "of another shape": found.other_shape,
    }
    rows |= {title: ", ".join(names) for title, names in only.items() if names}
    print_rows(rows)
    if found.total is None:
        click.echo("no tensor is in both in one shape: there is no distance")
        return
    table = Table("tensor", "relative L2", "max abs", "cosine", box=None, header_style="bold")
    for name, distance in found.tensors.items():
        table.add_row(plain(name), *_numbers(distance))
    table.add_row("total", *_numbers(found.total), style="bold")
    console().print(table)


def _numbers(distance: Distance) -> tuple[str, str, str]:
    cosine = "" if np.isnan(distance.cosine) else f"{distance.cosine:.4f}"
    return f"{distance.relative_l2:.4g}", f"{distance.max_abs:.4g}", cosine


@adapter.command(
    epilog="\b\nExample:\n  edgepeft adapter merge alice/ bob/ --weights 120,40 --output everybody/"
)
@click.argument("adapters", type=FOLDER, nargs=-1, required=True)
@click.option(
    "--weights",
    help="A number for each adapter, such as its rows, separated by commas; by default all equal.",
)
@click.option(
    "--output",
    type=_output,
    required=True,
    help="Folder for the merged adapter; an adapter that is there is replaced.",
)
@json_option
def merge(*, adapters: tuple[Path, ...], weights: str | None, output: Path, as_json: bool) -> None:
    """Averages ADAPTERS of one method and shape, tensor by tensor: federated averaging.

    Only the ratios of the weights count. For LoRA this averages the factors A and B, not their products: it is
    meant for adapters that were trained from the same start, each for a short while.
    """
    if len(adapters) < 2:
        raise ArgumentError("there is one adapter to average; give two or more.")
    check_places({"--output": output})
    shares = [1.0] * len(adapters) if weights is None else _numbers_of(weights)
    merged = average([Adapter.load(path) for path in adapters], shares)
    replaced = is_taken(output)
    merged.save(output)
    if as_json:
        print_json(
            {"adapter": str(output), "adapter_bytes": merged.size, "weights": shares, "replaced": replaced}
        )
    else:
        told = "; replaced the adapter that was there" if replaced else ""
        click.echo(f"{output}: {size_text(merged.size)}, the mean of {len(adapters)} adapters{told}")


def _numbers_of(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"--weights is {text!r}; expected numbers separated by commas, as 0.5,0.5."
        ) from None


@adapter.command(
    epilog="\b\nExample:\n  edgepeft adapter export bundle/ alice/ alice.onnx_adapter --format onnx_adapter"
)
@bundle_argument
@_adapter_argument
@click.argument("output", type=_output)
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), required=True, help="What to write.")
@json_option
def export(*, bundle: Path, adapter: Path, output: Path, kind: str, as_json: bool) -> None:
    """Writes ADAPTER, made for BUNDLE, to OUTPUT in the format of others.

    \b
    peft          a folder that HF PEFT opens
    onnx_adapter  a file for stock ONNX Runtime's LoraAdapter, used with the bundle's infer graph
    onnx          a folder with a model that stands alone: the adapter inside, no adapter inputs; low-rank
                  products stay factored, the base weights are not changed
    """  # noqa: D301 - click wants the character itself
    check_places({"OUTPUT": output})
    export_adapter(Bundle.open(bundle), Adapter.load(adapter), output, kind)
    files = [output] if output.is_file() else sorted(output.iterdir())
    sizes = {path.name: path.stat().st_size for path in files}
    if as_json:
        print_json({"output": str(output), "format": kind, "files": sizes})
    else:
        click.echo(f"{output}: " + ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items()))
