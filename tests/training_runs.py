"""What the tests of training share: rows, settings, and what the same adapter is."""

from typing import Any

import numpy as np

import edgepeft

Rows = list[dict[str, np.ndarray]]


def make_rows() -> Rows:
    """Eleven rows of unequal length."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 20, 11)
    return [
        {
            "input_ids": generator.integers(3, 200, length),
            "attention_mask": np.ones(length, np.int64),
            "labels": generator.integers(3, 200, length),
        }
        for length in lengths
    ]


def arguments(**changes: Any) -> edgepeft.TrainingArguments:
    """Eight steps of two batches of two."""
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "max_steps": 8,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "seed": 3,
    }
    return edgepeft.TrainingArguments(**(settings | changes))


def same(one: edgepeft.Adapter, other: edgepeft.Adapter) -> bool:
    """Bit for bit the same tensors."""
    return all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
