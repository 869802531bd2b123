"""Compares the two engines on a bundle: loss and every gradient of some batches."""

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
from edgepeft_export.errors import ExportError
from edgepeft_export.ort_training import environment
from edgepeft_export.verify import MAX_ERROR, Report, Row, gradient_errors, loss_error

_SEED = 0
#: As in stage verify: half of LoRA's gradients are zero at its start.
_NOISE = 0.02
#: Values that a whole number takes where nothing is known about it.
_FEWEST = 2
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
    batches = list(_batches(bundle.manifest, rng))
    stock = StockEngine(bundle, None)
    expected = [stock.run(names.TRAIN, batch, stock.prepare(adapter)) for batch in batches]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "adapter.safetensors").write_bytes(tensors.serialize(adapter, {}))
        for index, batch in enumerate(batches):
            (work / f"batch-{index}.safetensors").write_bytes(tensors.serialize(batch, {}))
        environment.run(python, Path(__file__).with_name("gradients.py"), folder, work)
        got = [_read(work / f"outputs-{index}.safetensors") for index in range(len(batches))]
    rows = [row for pair in zip(batches, got, expected, strict=True) for row in _rows(*pair)]
    report = Report(tuple(rows))
    if not report.passed:
        raise ExportError("ort-training", f"differs from the stock engine:\n{report.table()}")
    return report


def _read(path: Path) -> Mapping[str, Array]:
    arrays, _ = tensors.parse(memoryview(path.read_bytes()), str(path), ExportError.at("ort-training"))
    return arrays


def _rows(batch: Mapping[str, Array], got: Mapping[str, Array], expected: Mapping[str, Array]) -> list[Row]:
    shape = "x".join(str(size) for size in next(iter(batch.values())).shape)
    gradients = {name: value for name, value in expected.items() if name.startswith(names.gradient(""))}
    errors = gradient_errors(got, gradients)
    worst = max(errors, key=lambda name: errors[name])
    loss = loss_error(got[names.LOSS], expected[names.LOSS])
    return [
        Row(f"loss, batch {shape}, against stock", loss, MAX_ERROR),
        Row(f"{len(errors)} gradients, batch {shape}, worst {worst}", errors[worst], MAX_ERROR),
    ]


def _batches(manifest: Manifest, rng: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Random rows of what the bundle trains on, the first one padded where there is a mask."""
    for rows, length in _SIZES:
        batch = {
            port.name: _values(port, manifest, rows, length, rng)
            for port in manifest.data_inputs(names.TRAIN)
        }
        if "attention_mask" in batch:
            batch["attention_mask"][:] = 1
            batch["attention_mask"][0, -2:] = 0
            if batch[names.LABELS].ndim == 2:
                batch[names.LABELS][0, -2:] = IGNORED
        yield batch


def _values(port: Port, manifest: Manifest, rows: int, length: int, rng: np.random.Generator) -> Array:
    symbols = iter((rows, length))
    shape = [size if isinstance(size, int) else next(symbols, length) for size in port.shape]
    if port.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(port.dtype)
    below = {"input_ids": _tokens(manifest), names.LABELS: manifest.classes or _tokens(manifest)}
    return rng.integers(0, below.get(port.name, _FEWEST), shape).astype(port.dtype)


def _tokens(manifest: Manifest) -> int:
    """A number of tokens that the model surely has."""
    ports = {port.name: port for port in manifest.graph(names.INFER).outputs}
    width = ports[names.LOGITS].shape[-1] if names.LOGITS in ports else None
    if manifest.task == "causal_lm" and isinstance(width, int):
        return width
    text = manifest.text
    known = [*text.eos_token_ids, text.pad_token_id, text.bos_token_id or 0] if text else []
    return max([_FEWEST - 1, *known]) + 1
