"""`edgepeft doctor`: what this machine is, how it is doing, and whether a bundle can be trained on it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.tree import Tree

from edgepeft import board, memory, ort_package
from edgepeft.bundle import read_manifest
from edgepeft.cli import training_memory
from edgepeft.cli.shared import FOLDER, console, engine_facts, engine_text, json_option, plain, print_json
from edgepeft.engines.choice import ORT_TRAINING, STOCK
from edgepeft.errors import EngineError
from edgepeft.guest import Guest, memory_limit, temperature_limit
from edgepeft.manifest import Manifest
from edgepeft.units import size_text


@click.command(epilog="\b\nExample:\n  edgepeft doctor bundle/")
@click.argument("bundle", type=FOLDER, required=False)
@json_option
def doctor(*, bundle: Path | None, as_json: bool) -> None:
    """Shows what this machine is, how it is doing, and whether a training on BUNDLE fits into its memory.

    Of the bundle only the manifest is read: a machine that is too small for it can be asked too.
    """
    facts = _machine() | _runtime()
    if bundle is not None:
        facts |= _bundle(bundle, read_manifest(bundle))
    if as_json:
        print_json(facts)
    else:
        console().print(_drawing(facts))


def _machine() -> dict[str, Any]:
    found, now = board.board(board.ROOT), board.sensors(board.ROOT)
    available = board.available_memory(board.ROOT)
    limit = temperature_limit(Guest(root=board.ROOT))
    more = {"available_bytes": available, "max_temperature": limit}
    return dataclasses.asdict(found) | more | dataclasses.asdict(now)


def _runtime() -> dict[str, Any]:
    """The ONNX Runtime that is installed, and the engine that runs on it."""
    try:
        package = ort_package.installed()
    except EngineError as error:
        return {"onnxruntime": None, "onnxruntime_version": None, "engine": None, "engine_reason": str(error)}
    return {
        "onnxruntime": package.name,
        "onnxruntime_version": package.version,
        "engine": ORT_TRAINING if package.trains else STOCK,
        "engine_reason": f"{package.name} {package.version} is installed",
    }


def _bundle(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Whether a training fits, and what it takes; and the engine for this bundle."""
    choice = engine_facts(manifest)
    engine = choice["engine"] or STOCK
    limit = memory_limit(Guest(root=board.ROOT), memory.resident())
    rows = [
        row | {"fits": None if limit is None else row["bytes"] <= limit}
        for row in training_memory.estimates(manifest, engine)
    ]
    model = {"bundle": str(path), "model_name": manifest.model.name}
    return choice | model | {"fits": rows[0]["fits"] if rows else None, "training_memory": rows}


def _drawing(facts: Mapping[str, Any]) -> Tree:
    """The facts as a tree."""
    tree = Tree(plain(facts["model"] or "this machine"))
    machine = tree.add("machine")
    emulated = ", emulated: its times say nothing" if facts["emulated"] else ""
    _leaf(machine, "processor", f"{facts['processor'] or 'not told'}, {facts['architecture']}{emulated}")
    physical = "" if facts["physical_cores"] is None else f" of {facts['physical_cores']}"
    _leaf(machine, "physical cores", f"{facts['usable_cores']}{physical} usable")
    sets = facts["instruction_sets"]
    told = ", ".join(name if there else f"no {name}" for name, there in sets.items())
    _leaf(machine, "instruction sets", told or "not told")
    total, available = (_size(facts[name]) for name in ("memory_bytes", "available_bytes"))
    _leaf(machine, "memory", f"{total}, available {available}")
    now = tree.add("now")
    _leaf(now, "temperature", _temperature(facts["temperature"], facts["max_temperature"]))
    _leaf(now, "slowed down", _throttling(facts["throttling"]))
    _leaf(now, "battery", _battery(facts["battery"]))
    _leaf(now, "power", _measure(facts["watts"], "W"))
    runtime = tree.add("runtime")
    _leaf(runtime, "onnxruntime", f"{facts['onnxruntime'] or 'none'} {facts['onnxruntime_version'] or ''}")
    _leaf(runtime, "engine", engine_text(facts))
    if "bundle" in facts:
        answer = {True: "fits", False: "does not fit", None: "cannot be told"}[facts["fits"]]
        of = tree.add(plain(f"training {facts['model_name']} ({facts['bundle']}): {answer}"))
        if facts["training_memory"]:
            of.add(training_memory.table(facts["training_memory"]))
    return tree


def _leaf(tree: Tree, name: str, value: str) -> None:
    tree.add(plain(f"{name}  {value.strip()}"))


def _size(value: int | None) -> str:
    return "not told" if value is None else size_text(value)


def _measure(value: float | None, unit: str) -> str:
    return "not told" if value is None else f"{value:.1f} {unit}"


def _temperature(now: float | None, limit: float) -> str:
    return _measure(now, "°C") + ("" if now is None else f"; a training pauses above {limit:g} °C")


def _throttling(reasons: tuple[str, ...] | None) -> str:
    return "not told" if reasons is None else ", ".join(reasons) or "no"


def _battery(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none"
    return f"{found['percent']:g} %, {'discharging' if found['discharging'] else 'not in use'}"
