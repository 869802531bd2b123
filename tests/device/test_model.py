"""A loaded bundle: prediction, hot swap, generation, threads."""

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgepeft
from edgepeft.errors import AdapterError, ArgumentError, BundleError, DataError, EngineError

BATCH = {"input_ids": np.arange(3, 15).reshape(1, 12), "attention_mask": np.ones((1, 12), np.int64)}


@pytest.fixture
def model(bundles: Path) -> edgepeft.Model:
    return edgepeft.load(bundles / "tiny-llama", threads=1)


def moved(adapter: edgepeft.Adapter, seed: int) -> edgepeft.Adapter:
    """An adapter with other values."""
    generator = np.random.default_rng(seed)
    tensors = {
        name: value + generator.standard_normal(value.shape).astype(np.float32) * 0.3
        for name, value in sorted(adapter.tensors.items())
    }
    return edgepeft.Adapter(tensors, adapter.config, adapter.base_id)


def test_a_swap_changes_the_outputs_and_opens_no_session(
    model: edgepeft.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two adapters give two outputs, back and forth, exactly, on the session that is there."""
    first, second = model.adapter, moved(model.adapter, 1)
    outputs = [model.predict(BATCH)["logits"]]
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    for adapter in (second, first, second):
        model.use(adapter)
        outputs.append(model.predict(BATCH)["logits"])
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2
    assert np.array_equal(outputs[0], outputs[2])
    assert np.array_equal(outputs[1], outputs[3])


def test_a_refused_adapter_leaves_the_old_one_in_use(model: edgepeft.Model) -> None:
    """The error is raised before anything changes."""
    before, active = model.predict(BATCH)["logits"], model.adapter
    bad = dict(active.tensors)
    name = next(iter(bad))
    bad[name] = np.full_like(bad[name], np.nan)
    with pytest.raises(AdapterError, match="NaN"):
        model.use(edgepeft.Adapter(bad, active.config, active.base_id))
    assert model.adapter is active
    assert np.array_equal(model.predict(BATCH)["logits"], before)


def test_threads_get_their_own_answers(bundles: Path) -> None:
    """Predictions under way while another thread swaps are those of one adapter or of the other, never a mix."""
    model = edgepeft.load(bundles / "tiny-llama", threads=1)
    adapters = [model.adapter, moved(model.adapter, 2)]
    expected = []
    for adapter in adapters:
        model.use(adapter)
        expected.append(model.predict(BATCH)["logits"])
    odd: list[np.ndarray] = []

    def predict() -> None:
        for _ in range(50):
            got = model.predict(BATCH)["logits"]
            if not any(np.array_equal(got, one) for one in expected):
                odd.append(got)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    for index in range(200):
        model.use(adapters[index % 2])
    for thread in threads:
        thread.join()
    assert not odd


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"input_ids": BATCH["input_ids"]}, "needs the input 'attention_mask'"),
        (
            BATCH | {"input_ids": np.arange(12)},
            r"'input_ids': expected shape \['batch', 'length'\], got \[12\]",
        ),
        (BATCH | {"input_ids": np.full((1, 12), 10_000)}, "refused the batch"),
    ],
)
def test_a_wrong_batch_is_told(model: edgepeft.Model, batch: dict, words: str) -> None:
    """A missing input, a wrong rank, a token that does not exist."""
    with pytest.raises(EngineError, match=words):
        model.predict(batch)


def test_greedy_generation_takes_the_best_token(model: edgepeft.Model) -> None:
    """Each token is the best of the prediction for what stands before it."""
    assert model.text is not None
    ids = model.text.encode(model.text.prompt("hi"))
    expected: list[int] = []
    for _ in range(6):
        tokens = np.array([ids + expected])
        best = int(
            model.predict({"input_ids": tokens, "attention_mask": np.ones_like(tokens)})["logits"][
                0, -1
            ].argmax()
        )
        if best in model.text.info.eos_token_ids:
            break
        expected.append(best)
    assert model.generate("hi", max_new_tokens=6) == model.text.decode(expected)


def test_draws_follow_the_seed(model: edgepeft.Model) -> None:
    """The same seed gives the same text, another one another."""
    texts = [model.generate("hi", max_new_tokens=12, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stream_is_the_text_in_pieces(model: edgepeft.Model) -> None:
    """Under the adapter that was in use when it began, whatever is swapped in meanwhile."""
    whole = model.generate("hi", max_new_tokens=12, temperature=1.0)
    stream = model.stream("hi", max_new_tokens=12, temperature=1.0)
    first = next(stream)
    before = model.adapter
    model.use(moved(before, 1))
    assert first + "".join(stream) == whole != model.generate("hi", max_new_tokens=12, temperature=1.0)


def test_a_stream_refuses_at_once(model: edgepeft.Model) -> None:
    """A setting that is out of range is told before the first piece is asked for."""
    with pytest.raises(ArgumentError, match="stop is 'x'; expected a list"):
        model.stream("hi", stop="x")


def test_generation_stops_at_the_longest_text(model: edgepeft.Model) -> None:
    """A prompt that fills the model's positions is refused; a shorter one gets what room there is."""
    with pytest.raises(DataError, match="expected 1 to 127"):
        model.generate("x" * 200)


@pytest.mark.parametrize(
    "setting", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}]
)
def test_generation_settings_out_of_range(model: edgepeft.Model, setting: dict) -> None:
    """The message names the setting."""
    with pytest.raises(ArgumentError, match=next(iter(setting))):
        model.generate("hi", **setting)


def test_a_classifier_does_not_generate(bundles: Path) -> None:
    """The error says what to call instead."""
    with pytest.raises(ArgumentError, match="use predict"):
        edgepeft.load(bundles / "conv-net").generate("hi")


def test_unknown_engine_and_threads(bundles: Path) -> None:
    """Both are wrong use."""
    with pytest.raises(ArgumentError, match="unknown engine"):
        edgepeft.load(bundles / "conv-net", engine="fast")
    for threads in (0, 10**6, 10**12, "2"):
        with pytest.raises(ArgumentError, match=f"threads is {threads!r}; expected 1 to"):
            edgepeft.load(bundles / "conv-net", threads=threads)


@pytest.mark.parametrize("value", [None, 3, b"folder", ["folder"]])
def test_what_is_no_path(bundles: Path, value: Any) -> None:
    """The message names the argument and what it was; an adapter of `None` is the bundle's own."""
    expected = f" is {re.escape(repr(value))}; expected the path of its folder"
    with pytest.raises(ArgumentError, match=f"^bundle{expected}"):
        edgepeft.load(value)
    with pytest.raises(ArgumentError, match=f"^adapter{expected}"):
        edgepeft.Adapter.load(value)
    if value is not None:
        with pytest.raises(ArgumentError, match=f"^adapter{expected}"):
            edgepeft.load(bundles / "conv-net", value)
    with pytest.raises(ArgumentError, match="unknown engine"):
        edgepeft.load(bundles / "conv-net", engine=value)


def test_a_graph_that_onnxruntime_refuses(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the bundle, the graph and the version."""
    model = edgepeft.load(bundles / "conv-net")
    for content in ("graph", "asset"):
        monkeypatch.setattr(edgepeft.Bundle, content, lambda *_: b"")
    with pytest.raises(EngineError, match=r"conv-net: ONNX Runtime .* refused graph 'infer'"):
        model.predict({"image": np.zeros((1, 1, 8, 8), np.float32)})


def test_weights_are_those_that_were_verified(bundles: Path, tmp_path: Path) -> None:
    """A file that is altered after opening changes nothing: onnxruntime computes with the verified buffer."""
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(bundles / "tiny-llama", folder)
    expected = edgepeft.load(bundles / "tiny-llama").predict(BATCH)["logits"]
    bundle = edgepeft.Bundle.open(folder)
    base = folder / "base.safetensors"
    base.write_bytes(b"\0" * base.stat().st_size)
    assert np.array_equal(edgepeft.load(bundle).predict(BATCH)["logits"], expected)
    with pytest.raises(BundleError, match="altered"):
        edgepeft.Bundle.open(folder)


def test_data_of_other_classes(handmade: Path) -> None:
    """Rows were numbered by the names they were opened under: under other names each number is another class."""
    model = edgepeft.load(handmade / "sensor")
    rows = model.open_data({"x": np.eye(3, dtype=np.float32), "labels": np.arange(3)})
    assert model.evaluate(rows)["rows"] == 3
    other = model.adapter.with_labels(["run", "still"])
    with pytest.raises(
        ArgumentError, match="opened for the classes still, walk, run; the adapter has run, still"
    ):
        model.evaluate(rows, adapter=other)


def test_rows_whose_labels_are_not_read(handmade: Path) -> None:
    """To say what a row is takes no label of it: the classes are those of the adapter that is asked."""
    model = edgepeft.load(handmade / "sensor")
    other = model.adapter.with_labels(["run", "still"])
    columns = {"x": np.eye(3, dtype=np.float32), "labels": np.arange(3)}
    for rows in (model.open_data(columns), model.open_data({"x": columns["x"]}, graph="infer")):
        assert {row.label for row in model.classify(rows, adapter=other)} <= {"run", "still"}


def test_data_is_opened_for_an_adapter(handmade: Path) -> None:
    """Names are numbered as the adapter that is named has them, not the one in use."""
    model = edgepeft.load(handmade / "sensor")
    model.add_adapter("mine", model.adapter.with_labels(["run", "still"]))
    rows = model.open_data([{"x": np.zeros(3), "label": "run"}], adapter="mine")
    assert rows.classes == ["run", "still"]
    assert model.evaluate(rows, adapter="mine")["rows"] == 1


def test_what_is_printed_is_short(handmade: Path) -> None:
    """No tensor is written out."""
    model = edgepeft.load(handmade / "chat")
    result = edgepeft.Trainer(model, edgepeft.TrainingArguments(max_steps=1)).fit([{"text": "me."}])
    assert repr(model.adapter) == "<Adapter LORA: 2 tensors, 392 bytes>"
    assert repr(model.bundle) == f"<Bundle handmade-chat in {str(handmade / 'chat')!r}>"
    assert repr(model) == f"<Model of {model.bundle!r} on engine {model.engine.name}, {model.adapter!r}>"
    (loss,) = result.losses
    ended = f"finished after 1 steps, loss {loss:.4g} to {loss:.4g}"
    assert repr(result) == f"<TrainingResult {ended}, {result.adapter!r}>"
    many = dataclasses.replace(
        result, losses=[2.5, 2.0, 1.0], evaluation_losses=[(0, 3.0), (3, 1.25)], steps=3
    )
    told = "finished after 3 steps, loss 2.5 to 1, held-out loss 3 to 1.25"
    assert repr(many) == f"<TrainingResult {told}, {result.adapter!r}>"
    assert "loss" not in repr(dataclasses.replace(result, losses=[]))
    shares = {str(index): 0.001 for index in range(1000)}
    assert (
        repr(edgepeft.Classification("7", 7, 0.001, shares)) == "<Classification '7', 0.001, of 1000 classes>"
    )
    values = np.arange(1000, dtype=np.float32)
    assert repr(edgepeft.Regression(values, None)) == f"<Regression {', '.join(map(str, range(20)))}, ...>"
    named = edgepeft.Regression(values[:2], ("north", "east"))
    assert repr(named) == "<Regression north 0, east 1>"
