"""The engine against the values that PyTorch computed on a workstation: what every processor must come to."""

from pathlib import Path

import numpy as np
import pytest
import reference_values
from reference_values import MAX_DRIFT, MAX_ERROR, Reference, relative_error

import edgepeft
from edgepeft import names
from edgepeft.engines.base import StepSettings, TrainState


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-bert", "conv-net"])
def opened(request: pytest.FixtureRequest, bundles: Path) -> tuple[edgepeft.Model, Reference]:
    return edgepeft.load(bundles / request.param, threads=2), reference_values.load(bundles, request.param)


def test_loss_and_each_gradient(opened: tuple[edgepeft.Model, Reference]) -> None:
    """On every stored batch, each within 1e-5 of its largest value."""
    model, reference = opened
    adapter = model.engine.prepare(reference.adapter)
    assert len(reference.calls) == 3
    for call in reference.calls:
        told = model.engine.run(names.TRAIN, call.batch, adapter)
        assert relative_error(told["loss"], call.loss) <= MAX_ERROR
        assert call.gradients.keys() == reference.adapter.keys()
        for name, gradient in call.gradients.items():
            assert np.abs(gradient).max() > 0, f"{name} has no gradient: the comparison would prove nothing"
            assert relative_error(told[names.gradient(name)], gradient) <= MAX_ERROR, name


def test_outputs(opened: tuple[edgepeft.Model, Reference]) -> None:
    """Scores of tokens that are no padding, and of classes."""
    model, reference = opened
    adapter = model.engine.prepare(reference.adapter)
    for call in reference.calls:
        told = model.engine.run(names.INFER, call.batch, adapter)["logits"]
        mask = call.batch.get("attention_mask")
        kept = slice(None) if mask is None or told.ndim < 3 else mask.astype(bool)
        assert relative_error(told[kept], call.logits[kept]) <= MAX_ERROR


def test_ten_steps_of_adamw(opened: tuple[edgepeft.Model, Reference]) -> None:
    """The loss of each is within 1e-4 of torch.optim.AdamW's, on the same batches from the same start."""
    model, reference = opened
    stepper = model.engine.stepper(TrainState.fresh("adamw", reference.adapter))
    settings, batches = StepSettings(**reference.settings), [call.batch for call in reference.calls]
    losses = [
        stepper.step([batches[index % len(batches)]], settings).loss for index in range(len(reference.losses))
    ]
    assert len(losses) == reference_values.STEPS
    assert np.abs(np.subtract(losses, reference.losses)).max() <= MAX_DRIFT
    assert abs(losses[-1] - losses[0]) > 10 * MAX_DRIFT
