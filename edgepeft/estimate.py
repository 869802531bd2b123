"""How much memory a training will take: an estimate from the manifest alone, before anything is loaded."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgepeft import names
from edgepeft.engines.choice import ORT_TRAINING, STOCK
from edgepeft.limits import MiB
from edgepeft.manifest import MONOMIALS, GraphInfo, Manifest, Monomial

#: Resident bytes of Python, NumPy, ONNX Runtime and edgepeft before a bundle is opened, on Linux x86-64.
_RUNTIME_BYTES = 77 * MiB

#: Resident bytes that a session takes for each byte of its graph's file: nodes, kernels and plans. Measured.
_BYTES_PER_GRAPH_BYTE = 40

#: The same for each byte of tokenizer.json.
_BYTES_PER_TOKENIZER_BYTE = 28

#: What an engine takes by each byte of the tensors that are alive at once in the graph's own order: it runs nodes in
#: another order, merges some, keeps room for its kernels, and its allocator leaves gaps. Measured, on large batches.
_BYTES_PER_LIVE_BYTE = {STOCK: 1.25, ORT_TRAINING: 1.65}

#: Copies of the adapter that a training holds: of itself and its gradients, and for each tensor that the optimizer keeps,
#: of that before and after an update and of what is computed between. Measured, on an adapter of 50 MB.
_ADAPTER_COPIES = 4
_SLOT_COPIES = 5

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Where the memory of a training goes, in bytes.

    Attributes:
        runtime: Python and its libraries.
        base: The frozen weights.
        graphs: ONNX Runtime's sessions.
        tokenizer: The tokenizer, where there is one.
        adapter: The adapter, its gradients, and what the optimizer keeps, before and after an update.
        activations: Intermediate tensors of a batch.
    """

    runtime: float
    base: float
    graphs: float
    tokenizer: float
    adapter: float
    activations: float

    @property
    def loaded(self) -> float:
        """What a process holds before its first step."""
        return self.runtime + self.base + self.tokenizer

    @property
    def total(self) -> float:
        """All of it."""
        return math.fsum(dataclasses.astuple(self))


def training_memory(
    manifest: Manifest, batch_size: int, length: int = 1, optimizer: str = "adamw", engine: str = STOCK
) -> MemoryEstimate | None:
    """Estimates the peak resident size of a process that trains on batches of one size.

    Args:
        manifest: The bundle's manifest.
        batch_size: Rows that are run at once.
        length: Length of the longest row, for models whose inputs have one.
        optimizer: A key of `names.OPTIMIZERS`.
        engine: The engine that runs it.

    Returns:
        The estimate, or `None` if the exporter could not tell what the train graph takes.
    """
    file, memory = _train_graph(manifest, engine)
    if memory is None:
        return None
    slots = len(names.OPTIMIZERS[optimizer].slots)
    adapter = sum(_FLOAT32_BYTES * math.prod(tensor.shape) for tensor in manifest.adapter.tensors)
    others = (names.ACCUMULATE, names.update_graph(optimizer))
    files = [file, *(manifest.graphs[name].file for name in others if name in manifest.graphs)]
    sizes = [manifest.files[each].size for each in files]
    tokenizer = manifest.files.get(names.TOKENIZER)
    live = sum(value * MONOMIALS[term](batch_size, length) for term, value in memory.items())
    return MemoryEstimate(
        runtime=_RUNTIME_BYTES,
        base=manifest.files[names.BASE].size,
        graphs=_BYTES_PER_GRAPH_BYTE * sum(sizes),
        tokenizer=_BYTES_PER_TOKENIZER_BYTE * (tokenizer.size if tokenizer else 0),
        adapter=adapter * (_ADAPTER_COPIES + _SLOT_COPIES * slots),
        activations=round(_BYTES_PER_LIVE_BYTE[engine] * live),
    )


def _train_graph(manifest: Manifest, engine: str) -> tuple[str, Mapping[Monomial, float] | None]:
    """The file of what an engine trains with, and its memory."""
    info = manifest.ort_training
    if engine == ORT_TRAINING and info is not None:
        return info.graphs[names.TRAIN], info.memory
    graph = manifest.graphs.get(names.TRAIN)
    return ("", None) if graph is None else (graph.file, graph.memory)


def has_length(graph: GraphInfo) -> bool:
    """Whether a graph's inputs have a length that varies, besides the batch."""
    return any("length" in port.shape for port in graph.inputs)
