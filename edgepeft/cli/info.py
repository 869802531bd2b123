"""`edgepeft info`: a drawing of what is in a bundle."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.tree import Tree

from edgepeft import names
from edgepeft.bundle import Bundle
from edgepeft.cli import training_memory
from edgepeft.cli.shared import (
    bar,
    bundle_argument,
    console,
    engine_facts,
    engine_text,
    json_option,
    plain,
    print_json,
)
from edgepeft.engines.choice import STOCK, engines_of
from edgepeft.manifest import Manifest
from edgepeft.units import size_text


@click.command(epilog="\b\nExample:\n  edgepeft info bundle/")
@bundle_argument
@json_option
def info(*, bundle: Path, as_json: bool) -> None:
    """Shows what is in BUNDLE, after checking every file against its hash.

    The memory for a training is an estimate, made from the bundle alone.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    adapter = opened.initial_adapter()
    choice = engine_facts(manifest)
    facts = {
        "path": str(bundle),
        "model": manifest.model.name,
        "architecture": manifest.model.architecture,
        "task": manifest.task,
        "loss": manifest.loss,
        "labels": manifest.labels,
        "parameters": manifest.model.parameters,
        "base_id": manifest.base_id,
        "peft_type": manifest.adapter.peft_type,
        "adapter_tensors": len(adapter.tensors),
        "adapter_parameters": sum(value.size for value in adapter.tensors.values()),
        "adapter_bytes": adapter.size,
        "bundle_bytes": sum(file.size for file in manifest.files.values()),
        "base_bytes": manifest.files[names.BASE].size,
        "graphs": {name: len(opened.graph(name)) for name in manifest.graphs},
        "training": manifest.training,
        "training_memory": training_memory.estimates(manifest, choice["engine"] or STOCK),
        "engines": engines_of(manifest),
        **choice,
        "made_by": manifest.made_by,
    }
    if as_json:
        print_json(facts)
    else:
        console().print(_drawing(facts, manifest))


def _drawing(facts: Mapping[str, Any], manifest: Manifest) -> Tree:
    """The facts as a tree."""
    tree = Tree(plain(f"{facts['model']}  ({facts['path']}, {size_text(facts['bundle_bytes'])})"))
    model = tree.add("model")
    _leaf(model, "architecture", facts["architecture"])
    _leaf(model, "task", f"{facts['task']}, trained by {facts['loss']}")
    _leaf(model, "parameters", f"{facts['parameters']:,}, frozen")
    _leaf(model, "base id", facts["base_id"])
    if manifest.classes is not None:
        named = ", ".join(facts["labels"]) if facts["labels"] else "without names"
        _leaf(model, "classes", f"{manifest.classes}: {named}")
    adapter = tree.add(
        plain(
            f"adapter  {facts['peft_type'] or 'not of PEFT'}, {facts['adapter_parameters']:,} parameters, "
            f"{size_text(facts['adapter_bytes'])}"
        )
    )
    for pattern, count in _alike((tensor.name, tensor.shape) for tensor in manifest.adapter.tensors).items():
        adapter.add(plain(f"{count} x {pattern}"))
    tree.add("size").add(_sizes(manifest))
    if facts["training_memory"]:
        tree.add("memory for a training, estimated").add(training_memory.table(facts["training_memory"]))
    else:
        tree.add("memory for a training: the exporter could not tell")
    _leaf(tree, "recommended", ", ".join(f"{name} {value:g}" for name, value in facts["training"].items()))
    _leaf(tree, "engines", ", ".join(facts["engines"]))
    _leaf(tree, "here", engine_text(facts))
    _leaf(tree, "made by", ", ".join(f"{name} {version}" for name, version in facts["made_by"].items()))
    return tree


def _leaf(tree: Tree, name: str, value: str) -> None:
    if value:
        tree.add(plain(f"{name}  {value}"))


def _alike(tensors: Iterable[tuple[str, list[int]]]) -> Counter[str]:
    """Tensors of all layers together: how often each name, without its numbers, and shape occurs."""
    return Counter(f"{re.sub(r'(?<=[.])[0-9]+(?=[.])', '*', name)} {shape}" for name, shape in tensors)


def _sizes(manifest: Manifest) -> Table:
    """Where the bytes are, by file and folder."""
    sizes: Counter[str] = Counter()
    for path, file in manifest.files.items():
        sizes[path.split("/")[0] + ("/" if "/" in path else "")] += file.size
    table = Table(show_header=False, box=None)
    for name, size in sizes.most_common():
        table.add_row(plain(name), bar(size / sizes.total()), size_text(size))
    return table
