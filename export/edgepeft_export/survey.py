"""A look into a bundle's graphs from the workstation: nodes, ports, weights, and where the bytes go."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import onnx
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgepeft.bundle import Bundle
from edgepeft.cli.shared import bar, plain
from edgepeft.manifest import Port
from edgepeft.units import size_text

#: Rows of a drawing; the rest is one row.
_MOST_ROWS = 12


@dataclass(frozen=True)
class GraphSurvey:
    """One graph.

    Attributes:
        nodes: How many nodes of each operator it has, the most first.
        inputs: Its inputs as the manifest has them.
        outputs: Its outputs likewise.
        weights: How many tensors of base.safetensors it reads.
        weight_bytes: Bytes of those.
        file_bytes: Bytes of its file.
        memory: The polynomial of its intermediate tensors, in bytes.
    """

    nodes: dict[str, int]
    inputs: list[Port]
    outputs: list[Port]
    weights: int
    weight_bytes: int
    file_bytes: int
    memory: dict[str, float] | None


@dataclass(frozen=True)
class Survey:
    """A whole bundle.

    Attributes:
        graphs: Its graphs by name.
        files: Bytes of every file, the most first.
        weights: Bytes of the frozen weights, those of all layers together, the most first.
    """

    graphs: dict[str, GraphSurvey]
    files: dict[str, int]
    weights: dict[str, int]


def survey(bundle: Bundle) -> Survey:
    """Looks into every graph of a bundle."""
    files = Counter({path: file.size for path, file in bundle.manifest.files.items()})
    weights: Counter[str] = Counter()
    for name, value in bundle.weights.items():
        weights[_without_numbers(name)] += value.nbytes
    return Survey(
        graphs={name: _graph(bundle, name) for name in bundle.manifest.graphs},
        files=dict(files.most_common()),
        weights=dict(weights.most_common()),
    )


def _graph(bundle: Bundle, name: str) -> GraphSurvey:
    info = bundle.manifest.graphs[name]
    proto = onnx.load_model_from_string(bundle.graph(name)).graph
    return GraphSurvey(
        nodes=dict(Counter(node.op_type for node in proto.node).most_common()),
        inputs=info.inputs,
        outputs=info.outputs,
        weights=len(info.weights),
        weight_bytes=sum(bundle.weights[weight].nbytes for weight in info.weights),
        file_bytes=bundle.manifest.files[info.file].size,
        memory=info.memory,  # type: ignore[arg-type]
    )


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=[.])[0-9]+(?=[.])", "*", name)


def drawing(found: Survey) -> Group:
    """The survey as bars and tables."""
    summary = Table("graph", "nodes", "inputs", "outputs", "weights", "of base", "file", box=None)
    for name, graph in found.graphs.items():
        ports = (str(len(graph.inputs)), str(len(graph.outputs)), str(graph.weights))
        sizes = (size_text(graph.weight_bytes), size_text(graph.file_bytes))
        summary.add_row(plain(name), str(sum(graph.nodes.values())), *ports, *sizes)
    parts: list[Table | Text] = [Text("Bytes of the files", "bold"), _bars(found.files, size_text)]
    parts += [Text("\nBytes of the frozen weights", "bold"), _bars(found.weights, size_text)]
    parts += [Text("\nGraphs", "bold"), summary]
    for name, graph in found.graphs.items():
        parts += [Text(f"\nNodes of {name}", "bold"), _bars(graph.nodes, str)]
    return Group(*parts)


def _bars(counts: dict[str, int], shown: Callable[[int], str]) -> Table:
    table = Table(show_header=False, box=None)
    rows = list(counts.items())
    rest = sum(count for _, count in rows[_MOST_ROWS:])
    if rest:
        rows = [*rows[:_MOST_ROWS], (f"{len(rows) - _MOST_ROWS} others", rest)]
    total = sum(counts.values()) or 1
    for name, count in rows:
        table.add_row(plain(name), bar(count / total), shown(count))
    return table
