"""`edgepeft info`: what is in a bundle."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from edgepeft.bundle import Bundle
from edgepeft.cli.shared import bundle_argument, console, json_option, print_json, size_text


@click.command(epilog="\b\nExample:\n  edgepeft info bundle/")
@bundle_argument
@json_option
def info(*, bundle: Path, as_json: bool) -> None:
    """Shows what is in BUNDLE, after checking every file against its hash."""
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    adapter = opened.initial_adapter()
    facts = {
        "path": str(bundle),
        "model": manifest.model.name,
        "architecture": manifest.model.architecture,
        "task": manifest.task,
        "loss": manifest.loss,
        "parameters": manifest.model.parameters,
        "base_id": manifest.base_id,
        "peft_type": manifest.adapter.peft_type,
        "adapter_tensors": len(adapter.tensors),
        "adapter_parameters": sum(value.size for value in adapter.tensors.values()),
        "adapter_bytes": adapter.size,
        "bundle_bytes": sum(file.size for file in manifest.files.values()),
        "graphs": {name: len(opened.graph(name)) for name in manifest.graphs},
        "engines": ["stock"],
        "made_by": manifest.made_by,
    }
    if as_json:
        print_json(facts)
        return
    table = Table("", "", show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _shown(name, value))
    console().print(table)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(name, item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    if name.endswith("_bytes") or name == "graphs":
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
