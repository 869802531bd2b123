"""Stage verify: the bundle, run by the device's own engine, against PyTorch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgepeft import names
from edgepeft.bundle import Bundle
from edgepeft.data import IGNORED
from edgepeft.engines.base import Engine, StepSettings, TrainState
from edgepeft.engines.stock import StockEngine
from edgepeft.errors import EngineError, TrainingError
from edgepeft.tensors import Array
from edgepeft_export.attach import Attached
from edgepeft_export.errors import ExportError
from edgepeft_export.trace import StepModule

#: Largest relative error (largest difference / largest value) of loss, outputs and gradients in float32.
MAX_ERROR = 1e-4
#: A gradient that is smaller than this share of the largest is measured against that share.
_SMALL = 1e-3
#: Largest error of the loss along the trajectory, as `loss_error` has it. AdamW divides each gradient by its own size:
#: where one is all rounding, so is its update, and a step's loss differs by more than the gradients do.
MAX_DRIFT = 1e-4
STEPS = 20

_SETTINGS = StepSettings(
    learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0
)
_SEED = 0
#: The adapter is moved off its start, where half of LoRA's gradients are zero.
_NOISE = 0.02
#: (rows, length) of the batches compared, relative to the example's: none has its shape.
_SHAPES = ((1, -3), (1, 5), (3, 2))


@dataclass(frozen=True)
class Row:
    """One comparison: what was compared, the largest error, and the most it may be."""

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """The comparison of a bundle with PyTorch."""

    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        """How many comparisons there are; `table` has them."""
        failed = sum(not row.passed for row in self.rows)
        return f"<Report of {len(self.rows)} comparisons, {failed} failed>"

    @property
    def passed(self) -> bool:
        """Whether every row is within its limit."""
        return all(row.passed for row in self.rows)

    def table(self) -> str:
        """The rows as text, one a line."""
        width = max((len(row.what) for row in self.rows), default=0)
        verdict = {True: "ok", False: "FAILED"}
        return "\n".join(
            f"{row.what:<{width}}  {row.error:.1e}  (limit {row.limit:.0e})  {verdict[row.passed]}"
            for row in self.rows
        )


def relative_error(got: Array, expected: Array, floor: float = 0.0) -> float:
    """Largest difference over the largest expected value, or over `floor` if that is larger.

    It is the difference itself where both are zero.
    """
    largest = max(float(np.abs(expected).max(initial=0.0)), floor)
    difference = float(np.abs(got - expected).max(initial=0.0))
    return difference / largest if largest else difference


def gradient_errors(got: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """As `relative_error`, by name, but of small gradients relative to a share of the largest of all.

    Some are zero by their formula, such as those of the keys' biases, which softmax takes out again: there each side
    has rounding of its own.
    """
    floor = _SMALL * max((float(np.abs(value).max(initial=0.0)) for value in expected.values()), default=0.0)
    return {name: relative_error(got[name], value, floor) for name, value in expected.items()}


def loss_error(got: Array, expected: Array) -> float:
    """As `relative_error`, but of a loss below 1 the difference itself: rounding does not vanish with it."""
    return min(relative_error(got, expected), float(np.abs(got - expected).max(initial=0.0)))


def verify(
    bundle: Bundle,
    step: StepModule,
    attached: Attached,
    example: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    engine: Engine | None = None,
) -> Report:
    """Compares loss, outputs, every gradient and a trajectory of AdamW steps with PyTorch.

    Args:
        bundle: The bundle.
        step: The model with its loss.
        attached: The same with its adapter's names.
        example: A batch.
        axes: Which of its axes vary.
        engine: What runs the bundle; by default the stock engine.

    Raises:
        ExportError: ONNX Runtime refuses a graph, or something differs by more than its limit; the message then
            holds the table.
    """
    parameters = {attached.names[n]: p for n, p in attached.model.named_parameters() if n in attached.names}
    batches = list(other_batches(example, axes))
    try:
        engine = engine or StockEngine(bundle, torch.get_num_threads())
        with _moved(parameters):
            rows = _compare_batches(engine, step, parameters, batches)
            rows.append(_compare_steps(engine, step, parameters, batches))
            if names.DECODE in bundle.manifest.graphs:
                ids = batches[-1]["input_ids"][:1].numpy()
                rows.append(_compare_decoding(engine, _arrays(parameters), ids))
    except (EngineError, TrainingError) as error:
        raise ExportError("verify", str(error)) from error
    report = Report(tuple(rows))
    if not report.passed:
        raise ExportError("verify", f"the bundle differs from PyTorch:\n{report.table()}")
    return report


def other_batches(
    example: Mapping[str, Tensor], axes: Mapping[str, Mapping[int, str]]
) -> Iterator[dict[str, Tensor]]:
    """Batches made from the example's values, of other sizes than its own, the first row of each padded."""
    generator = torch.Generator().manual_seed(_SEED)
    for rows, longer in _SHAPES:
        batch: dict[str, Tensor] = {}
        for name, original in example.items():
            value = original
            for axis, symbol in axes.get(name, {}).items():
                size = rows if symbol == "batch" else max(2, value.shape[axis] + longer)
                index = (torch.arange(size) * 7 + size) % value.shape[axis]
                value = value.index_select(axis, index)
            if value.is_floating_point():
                value = value * (1 + 0.1 * torch.randn(value.shape, generator=generator))
            elif value.dim() == 2 and name not in (names.LABELS, "attention_mask"):
                value = value[:, torch.randperm(value.shape[1], generator=generator)]
            batch[name] = value
        yield _padded(batch)


def _padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Marks the last two tokens of the first row as padding, where there is a mask to say so."""
    if "attention_mask" not in batch or batch["attention_mask"].shape[1] < 4:
        return batch
    batch["attention_mask"] = batch["attention_mask"].clone()
    batch["attention_mask"][0, -2:] = 0
    if batch[names.LABELS].dim() == 2:
        batch[names.LABELS] = batch[names.LABELS].clone()
        batch[names.LABELS][0, -2:] = IGNORED
    return batch


@contextmanager
def _moved(parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Adds noise to the adapter, and takes it back afterwards."""
    generator = torch.Generator().manual_seed(_SEED)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(_NOISE * torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])
                parameter.grad = None


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.detach().numpy().copy() for name, value in tensors.items()}


def _backward(
    step: StepModule, batch: dict[str, Tensor], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    for parameter in parameters.values():
        parameter.grad = None
    outputs = step(dict(batch))
    outputs[names.LOSS].backward()
    return {name: value.detach() for name, value in outputs.items()}


def _compare_batches(
    engine: Engine,
    step: StepModule,
    parameters: Mapping[str, torch.nn.Parameter],
    batches: list[dict[str, Tensor]],
) -> list[Row]:
    adapter = engine.prepare(_arrays(parameters))
    rows: list[Row] = []
    for batch in batches:
        shape = "x".join(str(size) for size in next(iter(batch.values())).shape)
        expected = _backward(step, batch, parameters)
        data = _arrays(batch)
        got = engine.run(names.TRAIN, data, adapter)
        inferred = engine.run(names.INFER, data, adapter)
        evaluated = engine.run(names.EVALUATE, data, adapter)
        gradients = gradient_errors(
            {name: got[names.gradient(name)] for name in parameters},
            {name: p.grad.numpy() for name, p in parameters.items() if p.grad is not None},
        )
        worst = list(gradients)[int(np.argmax(list(gradients.values())))]  # NaN is the largest there
        rows += [
            Row(
                f"loss, batch {shape}",
                loss_error(got[names.LOSS], expected[names.LOSS].numpy()),
                MAX_ERROR,
            ),
            Row(
                f"evaluation loss, batch {shape}",
                loss_error(evaluated[names.LOSS], got[names.LOSS]),
                MAX_ERROR,
            ),
            Row(f"{len(gradients)} gradients, batch {shape}, worst {worst}", gradients[worst], MAX_ERROR),
            *(
                Row(f"{name}, batch {shape}", _output_error(value, expected[name].numpy(), batch), MAX_ERROR)
                for name, value in inferred.items()
            ),
        ]
    return rows


def _output_error(got: Array, expected: Array, batch: Mapping[str, Tensor]) -> float:
    """Error of an output, padded positions left out: what stands there is nobody's."""
    mask = batch.get("attention_mask")
    if mask is not None and got.shape[:2] == tuple(mask.shape):
        kept = mask.numpy().astype(bool)
        return relative_error(got[kept], expected[kept])
    return relative_error(got, expected)


def _compare_decoding(engine: Engine, tensors: Mapping[str, Array], ids: Array) -> Row:
    """Scores with a key-value cache against those without, which PyTorch has confirmed."""
    adapter = engine.prepare(tensors)
    data = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    expected = engine.run(names.INFER, data, adapter)["logits"][0]
    decoder = engine.decoder(adapter)
    half = ids.shape[1] // 2
    got = [decoder.next(ids[0, :half])] + [decoder.next(ids[0, i : i + 1]) for i in range(half, ids.shape[1])]
    return Row("logits with a cache", relative_error(np.stack(got), expected[half - 1 :]), MAX_ERROR)


def _compare_steps(
    engine: Engine,
    step: StepModule,
    parameters: Mapping[str, torch.nn.Parameter],
    batches: list[dict[str, Tensor]],
) -> Row:
    """AdamW on the same batches, here and in PyTorch: the largest error of the loss."""
    start = _arrays(parameters)
    stepper = engine.stepper(TrainState.fresh("adamw", start))
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=_SETTINGS.learning_rate,
        betas=(_SETTINGS.beta1, _SETTINGS.beta2),
        eps=_SETTINGS.epsilon,
        weight_decay=_SETTINGS.weight_decay,
    )
    errors = []
    for index in range(STEPS):
        batch = batches[index % len(batches)]
        expected = _backward(step, batch, parameters)[names.LOSS].numpy()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), _SETTINGS.max_grad_norm)
        optimizer.step()
        got = np.asarray(stepper.step([_arrays(batch)], _SETTINGS).loss)
        errors.append(loss_error(got, expected))
    return Row(f"loss over {STEPS} AdamW steps", float(np.max(errors)), MAX_DRIFT)
