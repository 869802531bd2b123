"""The stock engine: one copy of each weight, errors told once, and steps that are AdamW's."""

import ctypes
import threading

import numpy as np
import onnxruntime as ort
import pytest
from handmade_bundles import HANDMADE

import edgepeft
from edgepeft import names
from edgepeft.engines.base import StepSettings, TrainState, weighted_mean
from edgepeft.errors import EngineError, NonFiniteLossError

CHAT = {
    "input_ids": np.array([[7, 4, 9, 5, 6], [5, 8, 4, 0, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "labels": np.array([[7, 4, 9, 5, 6], [5, 8, -100, -100, -100]]),
}
BATCHES = {
    "chat": CHAT,
    "classifier": CHAT | {"labels": np.array([2, 0])},
    "regression": {
        "x": np.array([[0.1, -0.4, 0.8], [1.0, 0.3, -0.2]], np.float32),
        "target": np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32),
    },
}
#: How often a call is broken off at most, a twentieth of a second apart, until it has ended.
TRIES = 400
SETTINGS = StepSettings(
    learning_rate=0.02, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.1, max_grad_norm=0.5
)


def spread(model: edgepeft.Model, seed: int = 5) -> dict[str, np.ndarray]:
    """The adapter's tensors with values everywhere: B is zero at the start, and hides half of the gradient."""
    generator = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in model.adapter.tensors.items()}
    return {name: generator.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}


@pytest.mark.parametrize("name", BATCHES)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    """Along random directions the loss changes as the train graph's gradients say."""
    model = edgepeft.load(HANDMADE / name)
    batch, tensors = BATCHES[name], spread(model)
    told = model.engine.run(names.TRAIN, batch, model.engine.prepare(tensors))
    generator = np.random.default_rng(1)
    for _ in range(4):
        way = {key: generator.standard_normal(value.shape) for key, value in tensors.items()}
        expected = sum(float((told[names.gradient(key)] * way[key]).sum()) for key in tensors)
        losses = []
        for step in (1e-2, -1e-2):
            moved = {key: (value + step * way[key]).astype(np.float32) for key, value in tensors.items()}
            losses.append(float(model.engine.run(names.EVALUATE, batch, model.engine.prepare(moved))["loss"]))
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(expected, rel=2e-2, abs=2e-3)


def reference_step(
    tensors: dict[str, np.ndarray], moments: list[dict[str, np.ndarray]], gradients: dict, step: int
) -> float:
    """Clipping and AdamW in float64, in place; gives the norm."""
    norm = float(np.sqrt(sum((value**2).sum() for value in gradients.values())))
    clip = min(1.0, SETTINGS.max_grad_norm / (norm + 1e-6))
    for name, gradient in gradients.items():
        first, second = (moment[name] for moment in moments)
        first += (1 - SETTINGS.beta1) * (gradient * clip - first)
        second += (1 - SETTINGS.beta2) * ((gradient * clip) ** 2 - second)
        scale = np.sqrt(second / (1 - SETTINGS.beta2**step)) + SETTINGS.epsilon
        tensors[name] *= 1 - SETTINGS.learning_rate * SETTINGS.weight_decay
        tensors[name] -= SETTINGS.learning_rate * first / (1 - SETTINGS.beta1**step) / scale
    return norm


def test_steps_are_those_of_adamw() -> None:
    """Five steps of two batches, which count 5 and 3 labels, against AdamW in NumPy on their weighted mean."""
    model = edgepeft.load(HANDMADE / "chat")
    start = spread(model)
    stepper = model.engine.stepper(TrainState.fresh("adamw", start))
    other = {name: value[:1, :4] for name, value in CHAT.items()}
    tensors = {name: value.astype(np.float64) for name, value in start.items()}
    moments = [{name: np.zeros_like(value) for name, value in tensors.items()} for _ in range(2)]
    for step in range(1, 6):
        at = model.engine.prepare({name: value.astype(np.float32) for name, value in tensors.items()})
        told = [model.engine.run(names.TRAIN, batch, at) for batch in (CHAT, other)]
        weights = [float(one["weight"]) for one in told]
        assert weights == [5.0, 3.0]
        gradients = {
            name: np.average([one[names.gradient(name)] for one in told], axis=0, weights=weights)
            for name in tensors
        }
        norm = reference_step(tensors, moments, gradients, step)
        result = stepper.step([CHAT, other], SETTINGS)
        assert result.gradient_norm == pytest.approx(norm, rel=1e-4)
        assert result.loss == pytest.approx(np.average([one["loss"] for one in told], weights=weights))
        assert result.weight == 8.0
    state = stepper.state()
    assert state.step == 5
    for name, expected in tensors.items():
        np.testing.assert_allclose(state.adapter[name], expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_batch_that_counts_nothing_changes_nothing(place: int) -> None:
    """Its gradient is 0/0 in some graphs, and NaN whatever it is weighted by; wherever it comes in a step."""
    model = edgepeft.load(HANDMADE / "chat")
    other = {name: value[:1, :4] for name, value in CHAT.items()}
    nothing = CHAT | {"labels": np.full_like(CHAT["labels"], -100)}
    batches = [CHAT, other]
    batches.insert(place, nothing)
    steppers = [model.engine.stepper(TrainState.fresh("adamw", spread(model))) for _ in range(2)]
    without, with_it = steppers[0].step([CHAT, other], SETTINGS), steppers[1].step(batches, SETTINGS)
    assert with_it == without
    one, two = (stepper.state().adapter for stepper in steppers)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_gradient_that_is_no_number_is_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that divides by the weight gives NaN for a batch that counts nothing."""
    model = edgepeft.load(HANDMADE / "chat")
    engine, nothing = model.engine, CHAT | {"labels": np.full_like(CHAT["labels"], -100)}
    call = engine.call

    def divides(graph: str, feeds: dict) -> dict:
        outputs = call(graph, feeds)
        if graph == names.TRAIN and not outputs["weight"].numpy():
            nan = {name: np.full_like(value.numpy(), np.nan) for name, value in outputs.items()}
            return {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in nan.items()} | {
                "weight": outputs["weight"]
            }
        return outputs

    monkeypatch.setattr(engine, "call", divides)
    stepper = engine.stepper(TrainState.fresh("adamw", spread(model)))
    assert np.isfinite(stepper.step([CHAT, nothing, CHAT], SETTINGS).loss)
    with pytest.raises(NonFiniteLossError, match="step 2: no label counts, so there is no loss"):
        stepper.step([nothing, nothing], SETTINGS)
    assert stepper.state().step == 1


def test_sessions_compute_in_the_verified_buffer() -> None:
    """A weight that changes in the bundle's buffer changes every graph's answer: none has a copy, or packed one."""
    bundle = edgepeft.Bundle.open(HANDMADE / "chat")
    model = edgepeft.load(bundle)
    inputs = {name: CHAT[name] for name in ("input_ids", "attention_mask")}
    before = model.predict(inputs)["logits"], model.evaluate([{"text": "hello"}])["loss"]
    weight = bundle.weights["embed"]
    ctypes.memset(weight.ctypes.data, 0, weight.nbytes)
    after = model.predict(inputs)["logits"], model.evaluate([{"text": "hello"}])["loss"]
    assert np.abs(before[0]).max() > 0.1
    assert not after[0].any()
    assert after[1] == pytest.approx(np.log(after[0].shape[-1]))
    assert before[1] != pytest.approx(after[1])


def test_an_error_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    """What ONNX Runtime refuses comes as an exception, not also as a line of its own."""
    model = edgepeft.load(HANDMADE / "chat")
    with pytest.raises(EngineError, match="refused the batch"):
        model.predict({"input_ids": [[500]], "attention_mask": [[1]]})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[1.5]], "'input_ids' is no int64 array: it holds float64"),
        ([["a"]], "it holds text"),
        ([[1], [2, 3]], "'input_ids' is no int64 array"),
        ([[2**70]], "'input_ids' is no int64 array"),
    ],
)
def test_an_input_of_the_wrong_type_is_told(ids: list, words: str) -> None:
    """Nothing is rounded, parsed or cut to fit."""
    with pytest.raises(EngineError, match=words):
        edgepeft.load(HANDMADE / "chat").predict({"input_ids": ids, "attention_mask": [[1]]})


def test_the_weighted_mean() -> None:
    """A batch that counts nothing weighs nothing; if none counts, there is no mean."""
    assert weighted_mean([1.0, 3.0], [1.0, 3.0]) == 2.5
    assert weighted_mean([1.0, np.nan], [2.0, 0.0]) == 1.0
    assert np.isnan(weighted_mean([0.0], [0.0]))


def test_a_running_call_is_broken_off() -> None:
    """It fails at its next operator; later calls run."""
    model = edgepeft.load(HANDMADE / "endless")
    adapter = model.engine.prepare(model.adapter.tensors)
    failed: list[EngineError] = []

    def body() -> None:
        try:
            model.engine.run(names.INFER, {"given": np.full((1, 3), 1e4, np.float32)}, adapter)
        except EngineError as error:
            failed.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    for _ in range(TRIES):  # the first may come before the call
        if thread.is_alive():
            model.engine.break_off()
            thread.join(0.05)
    assert failed
    told = model.engine.run(names.INFER, {"given": np.ones((1, 3), np.float32)}, adapter)
    assert np.isfinite(told["prediction"]).all()
