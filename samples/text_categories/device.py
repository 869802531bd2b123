"""Learns a user's own categories of texts from 8 examples each, on ONNX Runtime without PyTorch.

Usage: python samples/text_categories/device.py BUNDLE OUTPUT      BUNDLE is what workstation.py wrote
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

DATA = Path(__file__).parent / "data"
SHOTS = 8
_SEEDS = range(5)
_BATCH = 16

Rows = list[dict[str, str]]


def load_rows(name: str) -> Rows:
    """Rows of "text" and "label"."""
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def shots(rows: Rows, seed: int) -> Rows:
    """The first eight rows of each category for seed 0, the next eight for seed 1, and so on."""
    labels = sorted({row["label"] for row in rows})
    each = ([row for row in rows if row["label"] == label] for label in labels)
    return [row for found in each for row in found[seed * SHOTS : (seed + 1) * SHOTS]]


def nearest_centroid(model: edgepeft.Model, examples: Rows, rows: Rows) -> float:
    """Per cent of rows whose embedding is nearest, by angle, to the mean of their own category's examples."""
    known, asked = (
        model.embed([row["text"] for row in some], batch_size=_BATCH) for some in (examples, rows)
    )
    labels = sorted({row["label"] for row in examples})
    of = np.array([row["label"] for row in examples])
    centroids = np.stack([known[of == label].mean(0) for label in labels])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    found = (asked @ centroids.T).argmax(1)
    right: list[bool] = [labels[index] == row["label"] for index, row in zip(found, rows, strict=True)]
    return 100 * sum(right) / len(right)


def adapt(model: edgepeft.Model, examples: Rows, seed: int, **settings: Any) -> edgepeft.TrainingResult:
    """Names the categories and trains on their examples; the model then classifies with what it learned."""
    labels = sorted({row["label"] for row in examples})
    model.use(model.bundle.initial_adapter().with_labels(labels))
    recommended: dict[str, Any] = dict(model.bundle.manifest.training) | settings
    arguments = edgepeft.TrainingArguments(**recommended, lr_scheduler_type="linear", seed=seed)
    return edgepeft.Trainer(model, arguments).fit(examples)


def measure(
    model: edgepeft.Model, examples: Rows, rows: Rows, seed: int, **settings: Any
) -> dict[str, float]:
    """Per cent of rows right: the frozen base with the same examples' centroids, and after training on them."""
    model.use(model.bundle.initial_adapter())
    frozen = nearest_centroid(model, examples, rows)
    adapt(model, examples, seed, **settings)
    adapted = 100 * model.evaluate(rows, _BATCH)["accuracy"]
    return {"frozen base, nearest centroid": frozen, "adapted": adapted, "gain": adapted - frozen}


def table(runs: list[dict[str, float]]) -> Table:
    """A line for each run; then means, with standard deviations over the runs."""
    shown = Table("seed", *runs[0], title=f"accuracy in % on held-out texts, {SHOTS} examples a category")
    for seed, run in enumerate(runs):
        shown.add_row(
            str(seed), *(f"{value:.1f}" for value in run.values()), end_section=seed == len(runs) - 1
        )
    columns = [[run[name] for run in runs] for name in runs[0]]
    shown.add_row("mean", *(f"{statistics.mean(one):.1f} ± {statistics.stdev(one):.1f}" for one in columns))
    return shown


def main(bundle: Path, output: Path) -> None:
    """Learns once for each seed, each from examples of its own, and shows what it gave."""
    model = edgepeft.load(bundle)
    examples, held_out = load_rows("examples"), load_rows("held_out")
    labels = {row["label"] for row in held_out}
    print(f"== learning {len(labels)} categories from {SHOTS} examples each, five times, without PyTorch")
    runs = []
    for seed in _SEEDS:
        runs.append(measure(model, shots(examples, seed), held_out, seed))
        model.adapter.save(output / f"seed-{seed}")
        print(
            f"seed {seed}: {', '.join(f'{name} {value:.1f}' for name, value in runs[-1].items())}", flush=True
        )
    Console().print(table(runs))
    (output / "result.json").write_text(json.dumps(runs, indent=2) + "\n")
    for row, found in zip(
        held_out[::40], model.classify([row["text"] for row in held_out[::40]]), strict=True
    ):
        print(f"{row['label']}, taken for {found.label}: {row['text'][:70]}...")
    print(f"the adapters, {model.adapter.size / 1000:.0f} kB each, and result.json are in {output}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
