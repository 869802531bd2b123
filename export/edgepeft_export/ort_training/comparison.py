"""Compares the two engines on a bundle: loss, every gradient, outputs, and scores with a key-value cache."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgepeft import names, tensors
from edgepeft.bundle import Bundle
from edgepeft.data import IGNORED
from edgepeft.engines.stock import StockEngine
from edgepeft.manifest import Manifest, Port
from edgepeft.tensors import Array
from edgepeft.text import Text
from edgepeft_export.errors import ExportError
from edgepeft_export.ort_training import environment
from edgepeft_export.verify import MAX_ERROR, Report, Row, gradient_errors, loss_error, relative_error

_SEED = 0
#: As in stage verify: half of LoRA's gradients are zero at its start.
_NOISE = 0.02
#: Values that a whole number takes where nothing is known about it.
_FEWEST = 2
#: What a model of text reads: with tokens that no text has, some models magnify rounding a hundredfold.
_TEXT = (
    "The harbour was quiet that morning. Two boats had left before dawn, and nobody on the pier could say when they "
    "would be back. She counted the crates again, wrote 17 into the book, and closed it."
)
#: Rows and lengths of the batches.
_SIZES = ((2, 8), (3, 13))


def compare(bundle: Bundle, folder: Path, python: Path) -> Report:
    """Runs the batches on both engines.

    Args:
        bundle: The bundle, open.
        folder: Where it lies now.
        python: The interpreter that has onnxruntime-training.

    Raises:
        ExportError: It fails there, or something differs by more than its limit; the message then holds the table.
    """
    rng = np.random.default_rng(_SEED)
    adapter: dict[str, Array] = {
        name: (value + _NOISE * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in bundle.initial_adapter().tensors.items()
    }
    batches = list(_batches(bundle, rng))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "adapter.safetensors").write_bytes(tensors.serialize(adapter, {}))
        for index, batch in enumerate(batches):
            (work / f"batch-{index}.safetensors").write_bytes(tensors.serialize(batch, {}))
        environment.run(python, Path(__file__).with_name("outputs.py"), folder, work)
        got = {path.stem: _read(path) for path in work.glob("outputs-*.safetensors")}
    engine = StockEngine(bundle, None)
    rows: list[Row] = []
    for index, batch in enumerate(batches):
        for graph in (names.TRAIN, names.EVALUATE, names.INFER):
            expected = engine.run(graph, batch, engine.prepare(adapter))
            rows += _rows(graph, batch, got[f"outputs-{index}-{graph}"], expected)
    if names.DECODE in bundle.manifest.graphs:
        rows.append(_decoding(engine, adapter, batches[0]["input_ids"][-1], got["outputs-decode"]))
    report = Report(tuple(rows))
    if not report.passed:
        raise ExportError("ort-training", f"differs from the stock engine:\n{report.table()}")
    return report


def _read(path: Path) -> Mapping[str, Array]:
    arrays, _ = tensors.parse(memoryview(path.read_bytes()), str(path), ExportError.at("ort-training"))
    return arrays


def _rows(
    graph: str, batch: Mapping[str, Array], got: Mapping[str, Array], expected: Mapping[str, Array]
) -> Iterator[Row]:
    """The loss, the worst gradient, and each output of a graph."""
    shape = "x".join(str(size) for size in next(iter(batch.values())).shape)
    gradients = {name: value for name, value in expected.items() if name.startswith(names.gradient(""))}
    if gradients:
        errors = gradient_errors(got, gradients)
        worst = max(errors, key=lambda name: errors[name])
        yield Row(f"{graph}: {len(errors)} gradients, batch {shape}, worst {worst}", errors[worst], MAX_ERROR)
    for name in expected.keys() - gradients.keys() - {names.WEIGHT}:
        pair = _without_padding(got[name], batch), _without_padding(expected[name], batch)
        error = loss_error(*pair) if name == names.LOSS else relative_error(*pair)
        yield Row(f"{graph}: {name}, batch {shape}", error, MAX_ERROR)


def _without_padding(values: Array, batch: Mapping[str, Array]) -> Array:
    """What stands at padded places is nobody's."""
    mask = batch.get("attention_mask")
    return values[mask.astype(bool)] if mask is not None and values.shape[:2] == mask.shape else values


def _decoding(engine: StockEngine, adapter: Mapping[str, Array], ids: Array, got: Mapping[str, Array]) -> Row:
    decoder = engine.decoder(engine.prepare(adapter))
    half = len(ids) // 2
    expected = np.stack([decoder.next(ids[:half]), decoder.next(ids[half:])])
    return Row("decode: scores with a cache", relative_error(got[names.LOGITS], expected), MAX_ERROR)


def random_batch(bundle: Bundle, rows: int, length: int, rng: np.random.Generator) -> dict[str, Array]:
    """Random rows of what the bundle trains on, all of one length, whose labels all count."""
    manifest = bundle.manifest
    batch = {
        port.name: _values(port, manifest, rows, length, rng) for port in manifest.data_inputs(names.TRAIN)
    }
    if "attention_mask" in batch:
        batch["attention_mask"][:] = 1
    if manifest.text is not None:
        ids = np.array(Text(bundle).encode(_TEXT), dtype=np.int64)
        starts = rng.integers(0, len(ids), (rows, 1))
        batch["input_ids"] = ids[(starts + np.arange(length)) % len(ids)]
        if manifest.loss == "causal_lm":
            batch[names.LABELS] = batch["input_ids"].copy()
    return batch


def _batches(bundle: Bundle, rng: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Batches of some sizes, their first row padded where there is a mask."""
    for rows, length in _SIZES:
        batch = random_batch(bundle, rows, length, rng)
        if "attention_mask" in batch:
            batch["attention_mask"][0, -2:] = 0
            if names.LABELS in batch and batch[names.LABELS].ndim == 2:
                batch[names.LABELS][0, -2:] = IGNORED
        yield batch


def _values(port: Port, manifest: Manifest, rows: int, length: int, rng: np.random.Generator) -> Array:
    shape = [
        size if isinstance(size, int) else (length if axis else rows) for axis, size in enumerate(port.shape)
    ]
    if port.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(port.dtype)
    below = {"input_ids": _tokens(manifest), names.LABELS: manifest.classes or _tokens(manifest)}
    return rng.integers(0, below.get(port.name, _FEWEST), shape).astype(port.dtype)


def _tokens(manifest: Manifest) -> int:
    """A number of tokens that a model without a tokenizer surely has."""
    ports = {port.name: port for port in manifest.graph(names.INFER).outputs}
    width = ports[names.LOGITS].shape[-1] if names.LOGITS in ports else None
    return width if manifest.task == "causal_lm" and isinstance(width, int) else _FEWEST
