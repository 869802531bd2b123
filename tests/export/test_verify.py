"""How far a bundle is from PyTorch: errors relative to what is compared, and rounding where that is almost nothing."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from small_models import text_batch, tiny_bert

import edgepeft_export
from edgepeft import names
from edgepeft_export.verify import (
    MAX_ERROR,
    _compare_batches,
    _compare_steps,
    gradient_errors,
    loss_error,
    relative_error,
)


def test_the_loss_of_a_model_that_is_nearly_right() -> None:
    """A loss of 1e-7 is rounding, and so is a difference of half of it; that of larger losses is relative."""
    tiny, other = np.float32(1e-7), np.float32(1.5e-7)
    assert relative_error(other, tiny) > MAX_ERROR
    assert loss_error(other, tiny) <= MAX_ERROR
    assert loss_error(np.float32(0.5), np.float32(0.501)) > MAX_ERROR
    assert loss_error(np.float32(200.0), np.float32(200.01)) == relative_error(
        np.float32(200.0), np.float32(200.01)
    )
    assert np.isnan(loss_error(np.float32(np.nan), np.float32(1.0)))


def test_a_gradient_that_is_rounding() -> None:
    """Beside a large one, one that is almost nothing is; a small one that is wrong is told."""
    large = np.array([1.0, -0.5], np.float32)
    expected = {"large": large, "none": np.full(2, 1e-9), "small": np.full(2, 1e-5)}
    got = {"large": large, "none": np.full(2, -2e-9), "small": np.full(2, 2e-5)}
    errors = gradient_errors(got, expected)
    assert errors["large"] == 0
    assert errors["none"] <= MAX_ERROR
    assert errors["small"] > MAX_ERROR
    zeros = {"a": np.zeros(2)}
    assert gradient_errors(zeros, zeros) == {"a": 0}
    assert np.isnan(gradient_errors({"a": np.full(2, np.nan)}, zeros)["a"])


def test_biases_alone(tmp_path: Path) -> None:
    """BitFit: the gradients of the keys' biases are zero by their formula, and rounding on either side."""
    model = tiny_bert().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("key.bias", "classifier.bias")))
    report = edgepeft_export.export(
        model, text_batch(classes=3), loss="cross_entropy", adapter=None, output=tmp_path / "bundle"
    )
    assert report.passed
    assert repr(report) == f"<Report of {len(report.rows)} comparisons, 0 failed>"


def test_what_is_no_number_fails() -> None:
    """In one gradient among others, and in one step among others, whichever comes first."""
    weights = {name: torch.nn.Parameter(torch.ones(2)) for name in ("a", "b", "c")}
    batch = {"x": torch.ones(2)}

    def step(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {names.LOSS: sum((weight * batch["x"]).sum() for weight in weights.values())}

    losses = (np.float32(np.nan if count == 1 else 6.0) for count in itertools.count())
    given = {names.LOSS: np.float32(6.0)} | {names.gradient(name): np.ones(2, np.float32) for name in weights}
    given[names.gradient("b")] = np.full(2, np.nan, np.float32)
    engine = SimpleNamespace(
        prepare=lambda tensors: tensors,
        run=lambda graph, *_: given if graph != names.INFER else {},
        stepper=lambda _: SimpleNamespace(step=lambda *_: SimpleNamespace(loss=next(losses))),
    )
    (gradients,) = [
        row for row in _compare_batches(engine, step, weights, [batch]) if "gradients" in row.what
    ]
    assert gradients.what.endswith("worst b")
    assert not gradients.passed
    drift = _compare_steps(engine, step, weights, [batch])
    assert np.isnan(drift.error)
    assert not drift.passed
