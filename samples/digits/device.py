"""Personalises the digit reader to one worn sensor from 40 corrections, on ONNX Runtime without PyTorch.

Usage: python samples/digits/device.py FOLDER OUTPUT      FOLDER is what workstation.py wrote
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import edgepeft
from edgepeft.tensors import Array
from edgepeft.units import duration_text, size_text

CORRECTIONS = 40
_SEEDS = range(5)
_BATCH = 128

Rows = list[dict[str, Array]]


def load_rows(data: Path, name: str) -> Rows:
    """Images [1, 8, 8] float32 and their labels, as the model takes them."""
    images, labels = (np.load(data / f"{name}_{kind}.npy") for kind in ("images", "labels"))
    return [{"image": image, "labels": label} for image, label in zip(images, labels, strict=True)]


def adapt(model: edgepeft.Model, data: Path, seed: int) -> edgepeft.TrainingResult:
    """Trains on 40 shots of the sensor that the user corrected, and on the clean digits that came along."""
    shots = load_rows(data, "corrections")
    picks = np.random.default_rng(seed).permutation(len(shots))[:CORRECTIONS]
    rows = [shots[pick] for pick in picks] + load_rows(data, "rehearsal")
    model.use(model.bundle.initial_adapter())
    recommended: dict[str, Any] = dict(model.bundle.manifest.training)
    trainer = edgepeft.Trainer(model, edgepeft.TrainingArguments(**recommended, seed=seed))
    return trainer.fit(rows)


def accuracies(model: edgepeft.Model, data: Path) -> dict[str, float]:
    """Per cent of the test digits that the model reads rightly, clean and from the worn sensor."""
    return {
        kind: 100 * model.evaluate(load_rows(data, f"{kind}_test"), _BATCH)["accuracy"]
        for kind in ("clean", "disturbed")
    }


def measure(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The figures of a run, in per cent."""
    lost = before["clean"] - before["disturbed"]
    return {
        "clean before": before["clean"],
        "clean after": after["clean"],
        "disturbed before": before["disturbed"],
        "disturbed after": after["disturbed"],
        "share won back": 100 * (after["disturbed"] - before["disturbed"]) / lost,
    }


def table(runs: list[dict[str, float]]) -> Table:
    """A line for each run; then means, with standard deviations over the runs."""
    shown = Table("seed", *runs[0], title=f"accuracy in %, {CORRECTIONS} corrections")
    for seed, run in zip(_SEEDS, runs, strict=True):
        shown.add_row(str(seed), *(f"{value:.1f}" for value in run.values()), end_section=seed == _SEEDS[-1])
    columns = [[run[name] for run in runs] for name in runs[0]]
    shown.add_row(
        "mean", *(f"{statistics.mean(column):.1f} ± {statistics.stdev(column):.1f}" for column in columns)
    )
    return shown


def main(folder: Path, output: Path) -> None:
    """Adapts once for each seed, each with 40 corrections of its own, and shows what it gave."""
    model = edgepeft.load(folder / "bundle")
    data = folder / "data"
    before = accuracies(model, data)
    print(
        f"== clean digits: {before['clean']:.1f} % right; from the worn sensor: {before['disturbed']:.1f} %"
    )
    print(f"== learning from {CORRECTIONS} corrections, {len(_SEEDS)} times with others, without PyTorch")
    runs = []
    for seed in _SEEDS:
        result = adapt(model, data, seed)
        runs.append(measure(before, accuracies(model, data)))
        result.adapter.save(output / f"seed-{seed}")
    Console().print(table(runs))
    (output / "result.json").write_text(json.dumps(runs, indent=2) + "\n")
    print(
        f"{result.steps} steps of {duration_text(result.seconds_per_step)} a run, peak memory "
        f"{size_text(result.peak_memory_bytes)}, adapter {size_text(result.adapter.size)}"
    )
    print(f"the adapters and result.json are in {output}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
