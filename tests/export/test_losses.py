"""Losses: what they count, a batch that counts nothing, and what the manifest says of them."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_models import RECIPES, lora, text_batch, tiny_llama
from torch import Tensor, nn

import edgepeft
import edgepeft_export
from edgepeft import names
from edgepeft.bundle import Bundle
from edgepeft.data import IGNORED
from edgepeft.engines.base import StepSettings, TrainState
from edgepeft.engines.stock import StockEngine
from edgepeft.errors import NonFiniteLossError
from edgepeft.tensors import Array
from edgepeft_export import ExportError


class PerPosition(nn.Module):
    """Scores of three classes at every place of a signal, [batch, 3, 8]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv1d(2, 3, 3, padding=1)

    def forward(self, signal: Tensor) -> Tensor:
        return self.convolution(signal)


def signals() -> dict[str, Tensor]:
    """Signals, with a class for each place but one."""
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (4, 8))
    labels[0, 3] = IGNORED
    return {"signal": torch.randn(4, 2, 8), "labels": labels}


class PerToken(nn.Module):
    """A number for each token, [batch, length]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(30, 8).requires_grad_(False)
        self.head = nn.Linear(8, 1)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.tokens(input_ids)).squeeze(-1)


def tokens_with_numbers() -> dict[str, Tensor]:
    """Tokens, with a number for each."""
    torch.manual_seed(1)
    return {"input_ids": torch.randint(0, 30, (2, 6)), "labels": torch.randn(2, 6)}


#: What has labels that may all be ignored.
COUNTED = {
    "head of a language model": lambda: {
        "model": tiny_llama(tied=False),
        "example_inputs": text_batch(),
        "loss": "causal_lm",
        "adapter": lora("lm_head", task="CAUSAL_LM"),
    },
    "per position": lambda: {
        "model": PerPosition(),
        "example_inputs": signals(),
        "loss": "cross_entropy",
        "adapter": None,
    },
    "number per token": lambda: {
        "model": PerToken(),
        "example_inputs": tokens_with_numbers(),
        "loss": "mse",
        "adapter": None,
    },
    "language model": RECIPES["tiny-llama"],
    "classifier": RECIPES["tiny-bert"],
}


def arrays(batch: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in batch.items()}


@pytest.fixture(params=COUNTED)
def exported(
    request: pytest.FixtureRequest, bundles: Path, tmp_path: Path
) -> tuple[Bundle, dict[str, Tensor]]:
    """A bundle, compared with PyTorch where it was not before, and its example batch."""
    recipe = COUNTED[request.param]()
    ready = {"language model": "tiny-llama", "classifier": "tiny-bert"}.get(request.param)
    if ready is None:
        edgepeft_export.export(**recipe, output=tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle" if ready is None else bundles / ready), recipe["example_inputs"]


def test_a_batch_that_counts_nothing_is_harmless(exported: tuple[Bundle, dict[str, Tensor]]) -> None:
    """Its loss is NaN as in PyTorch, its weight and gradients are zero, and accumulation passes over it."""
    bundle, example = exported
    engine = StockEngine(bundle, threads=1)
    full = arrays(example)
    empty = full | {names.LABELS: np.full_like(full[names.LABELS], IGNORED)}
    start = {
        name: value + np.float32(0.1) * np.random.default_rng(3).standard_normal(value.shape, np.float32)
        for name, value in bundle.initial_adapter().tensors.items()
    }
    for graph in (names.TRAIN, names.EVALUATE):
        got = engine.run(graph, empty, engine.prepare(start))
        assert math.isnan(got[names.LOSS])
        assert got[names.WEIGHT] == 0
    got = engine.run(names.TRAIN, empty, engine.prepare(start))
    assert all(not got[names.gradient(name)].any() for name in start)

    def trained(*batches: dict[str, Array]) -> tuple[float, Mapping[str, Array]]:
        stepper = engine.stepper(TrainState.fresh("adamw", start))
        result = stepper.step(batches, StepSettings(1e-2))
        return result.loss, stepper.state().adapter

    loss, expected = trained(full)
    for batches in ((full, empty), (empty, full), (empty, empty, full)):
        got_loss, adapter = trained(*batches)
        assert got_loss == loss
        for name, value in expected.items():
            np.testing.assert_array_equal(adapter[name], value)
    with pytest.raises(NonFiniteLossError, match="no label counts"):
        trained(empty, empty)


@pytest.mark.parametrize(("total", "weight", "mean"), [(2, 0, 1.0), (0, 2, 4.0), (0, 0, 1.0), (2, 1, 2.0)])
def test_the_accumulate_graph_gives_no_share_to_nothing(
    bundles: Path, total: float, weight: float, mean: float
) -> None:
    """A mean of 1 so far meets a gradient of 4: each has the share of what it counted, and none of nothing is NaN."""
    bundle = Bundle.open(bundles / "conv-net")
    session = onnxruntime.InferenceSession(
        bytes(bundle.graph(names.ACCUMULATE)), providers=["CPUExecutionProvider"]
    )
    feeds = {names.ACCUMULATED_WEIGHT: np.float32(total), names.WEIGHT: np.float32(weight)}
    for name, value in bundle.initial_adapter().tensors.items():
        feeds[names.accumulated(name)] = np.full_like(value, 1)
        feeds[names.gradient(name)] = np.full_like(value, 4)
    outputs = [output.name for output in session.get_outputs()]
    got = dict(zip(outputs, session.run(outputs, {k: np.asarray(v) for k, v in feeds.items()}), strict=True))
    assert got.pop(names.new(names.ACCUMULATED_WEIGHT)) == total + weight
    assert all((value == mean).all() for value in got.values())


def test_numbers_of_unequal_rows(tmp_path: Path) -> None:
    """What a short row's labels are padded with is not counted: it costs the same alone and beside a long one."""
    edgepeft_export.export(**COUNTED["number per token"](), output=tmp_path / "bundle")
    model = edgepeft.load(tmp_path / "bundle")
    rows = [
        {"input_ids": np.arange(length), "labels": np.linspace(-1, 1, length, dtype=np.float32)}
        for length in (2, 7)
    ]
    alone = [model.evaluate([row])["loss"] for row in rows]
    together = model.evaluate(rows, 2)
    assert together["loss"] == pytest.approx(np.average(alone, weights=[2, 7]), rel=1e-5)
    assert together["counted"] == 9
    result = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1, batch_size=2)).fit(rows)
    assert result.losses[0] == pytest.approx(together["loss"], rel=1e-5)


def test_a_number_that_looks_like_padding(bundles: Path) -> None:
    """Where labels are of one size nothing is padded, and -100 is a number like any other."""
    row = {"x": np.zeros(8, np.float32), "labels": np.full(4, IGNORED, np.float32)}
    measured = edgepeft.load(bundles / "wide").evaluate([row])
    assert measured["counted"] == 4
    assert measured["loss"] > 9000


def test_scores_of_places_are_no_classifier(tmp_path: Path) -> None:
    """An accuracy over the last axis, which holds places, would mean nothing: the task stays generic."""
    edgepeft_export.export(**COUNTED["per position"](), output=tmp_path / "bundle")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.task, manifest.loss) == ("generic", "cross_entropy")
    counted = StockEngine(Bundle.open(tmp_path / "bundle"), 1)
    adapter = counted.prepare(Bundle.open(tmp_path / "bundle").initial_adapter().tensors)
    assert counted.run(names.EVALUATE, arrays(signals()), adapter)[names.WEIGHT] == 31


def test_a_score_for_each_class_is_a_classifier(bundles: Path) -> None:
    """Of text and of images alike."""
    tasks = {name: Bundle.open(bundles / name).manifest.task for name in RECIPES}
    assert tasks["conv-net"] == tasks["tiny-bert"] == "sequence_classification"
    assert tasks["tiny-llama"] == "causal_lm"


def test_whole_numbers_as_targets(tmp_path: Path) -> None:
    """The weight of a batch is float32 whatever the labels are."""
    batch = {"input": torch.randn(3, 4), "labels": torch.randint(0, 9, (3, 1))}
    report = edgepeft_export.export(
        nn.Linear(4, 1), batch, loss="mse", adapter=None, output=tmp_path / "bundle"
    )
    assert report is not None
    manifest = Bundle.open(tmp_path / "bundle").manifest
    dtypes = {port.name: port.dtype for port in manifest.graphs["train"].outputs}
    assert (dtypes["loss"], dtypes["weight"]) == ("float32", "float32")


def test_targets_of_another_shape(tmp_path: Path) -> None:
    """PyTorch would compare each row with each, with no more than a warning."""
    batch = {"input": torch.randn(3, 4), "labels": torch.randn(3)}
    with pytest.raises(
        ExportError, match=r"trace: mse compares logits \[.*, 1\] with labels \[.*\]; expected"
    ):
        edgepeft_export.export(nn.Linear(4, 1), batch, loss="mse", adapter=None, output=tmp_path / "out")


@pytest.mark.parametrize("rank", [1, 2])
def test_a_loss_of_ones_own_counts_rows(tmp_path: Path, rank: int) -> None:
    """Whatever the rank of the first input is."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    batch = {"x": torch.randn((3, 4)[:rank]), "labels": torch.randn((3, 4)[:rank])}
    edgepeft_export.export(
        Scaled(),
        batch,
        loss=lambda outputs, batch: (outputs["logits"] - batch["labels"]).abs().mean(),
        adapter=None,
        output=tmp_path / "bundle",
    )
    engine = StockEngine(Bundle.open(tmp_path / "bundle"), 1)
    five = {name: np.ones((5, 4)[:rank], np.float32) for name in batch}
    adapter = engine.prepare({"scale": np.ones(1, np.float32)})
    assert engine.run(names.EVALUATE, five, adapter)[names.WEIGHT] == 5
