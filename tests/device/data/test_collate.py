"""Rows -> batches: padding, and that it changes nothing."""

from pathlib import Path

import numpy as np
import pytest

import edgepeft
from edgepeft.data import collate


@pytest.fixture
def model(bundles: Path) -> edgepeft.Model:
    return edgepeft.load(bundles / "tiny-llama")


def test_rows_are_padded_on_the_right(model: edgepeft.Model) -> None:
    """To the longest row, with the pad token, 0 and -100."""
    rows = [one.row for one in model.open_data([{"text": "abc"}, {"text": "a"}]).read([0, 1])]
    batch = collate(rows, model.bundle.manifest.data_inputs("train"), pad_token_id=7)
    assert batch["input_ids"].shape == (2, 4)
    assert batch["input_ids"][1, 2:].tolist() == [7, 7]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"][1, 2:].tolist() == [-100, -100]


def test_padding_changes_no_loss(model: edgepeft.Model) -> None:
    """A short row costs the same alone and beside a long one."""
    alone = [model.evaluate([{"text": text}], 1)["loss"] for text in ("ab", "a much longer row")]
    weights = [2, 17]  # counted: every token but the first
    together = model.evaluate([{"text": "ab"}, {"text": "a much longer row"}], 2)["loss"]
    assert together == pytest.approx(np.average(alone, weights=weights), rel=1e-5)
