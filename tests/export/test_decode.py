"""The decode graph: which models have one, and that its cache changes no answer."""

from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, PromptTuningConfig
from small_models import byte_tokenizer, lora, text_batch, text_info, tiny_bert, tiny_llama
from torch import nn

import edgepeft
import edgepeft_export
from edgepeft import names
from edgepeft.tensors import Array
from edgepeft_export.attach import attach
from edgepeft_export.decode import example_cache
from edgepeft_export.verify import relative_error

MAX_ERROR = 1e-5


def trained(model: edgepeft.Model) -> edgepeft.Adapter:
    """An adapter that changes the answers."""
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.normal(0, 0.2, value.shape).astype(np.float32)
        for name, value in model.adapter.tensors.items()
    }
    return edgepeft.Adapter(tensors, model.adapter.config, model.adapter.base_id)


def decoded(model: edgepeft.Model, ids: Array, pieces: list[int]) -> Array:
    """Scores after each piece of a text, [pieces, vocabulary]."""
    decoder = model.engine.decoder(model.engine.prepare(dict(model.adapter.tensors)))
    ends = np.cumsum(pieces)
    return np.stack([decoder.next(ids[end - size : end]) for end, size in zip(ends, pieces, strict=True)])


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 1, 5]])
def test_scores_with_a_cache_are_those_without(bundles: Path, pieces: list[int]) -> None:
    """However a text is cut into pieces, under an adapter that was trained."""
    model = edgepeft.load(bundles / "tiny-llama")
    model.use(trained(model))
    ids = text_batch(1, 12)["input_ids"].numpy()
    whole = model.predict({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"][0]
    expected = whole[np.cumsum(pieces) - 1]
    assert relative_error(decoded(model, ids[0], pieces), expected) <= MAX_ERROR


def test_the_cache_follows_the_adapter(bundles: Path) -> None:
    """Another adapter gives other scores from the same text."""
    model = edgepeft.load(bundles / "tiny-llama")
    ids = text_batch(1, 12)["input_ids"].numpy()[0]
    before = decoded(model, ids, [12])
    model.use(trained(model))
    assert relative_error(decoded(model, ids, [12]), before) > 0.01


def test_weights_of_the_decode_graph_are_the_base(bundles: Path) -> None:
    """No weight of the model is stored a second time for it."""
    graphs = edgepeft.Bundle.open(bundles / "tiny-llama").manifest.graphs
    own = set(graphs[names.DECODE].weights) - set(graphs[names.INFER].weights)
    assert all(name.startswith("decode.") for name in own)
    shared = set(graphs[names.INFER].weights) - set(graphs[names.DECODE].weights)
    assert not [name for name in shared if name.endswith(".weight")]


PROMPTS = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)


@pytest.mark.parametrize(
    ("model", "adapter"),
    [(tiny_bert(), lora("query", task="SEQ_CLS")), (tiny_llama(), PROMPTS)],
    ids=["no language model", "prompt tuning"],
)
def test_a_model_without_a_plain_cache_has_no_decode_graph(model: nn.Module, adapter: LoraConfig) -> None:
    """Virtual tokens lie in a cache but not among the tokens; an encoder has no cache at all."""
    assert example_cache(attach(model, adapter, 0).model) is None


def test_generation_without_a_decode_graph(tmp_path: Path) -> None:
    """A bundle that has none generates all the same, by reading the whole text for each token."""
    edgepeft_export.export(
        tiny_llama(),
        text_batch(),
        loss="causal_lm",
        adapter=PROMPTS,
        output=tmp_path / "bundle",
        text=text_info(),
        assets={names.TOKENIZER: byte_tokenizer()},
        check=False,
    )
    model = edgepeft.load(tmp_path / "bundle")
    assert names.DECODE not in model.bundle.manifest.graphs
    assert model.text is not None
    ids = np.array([model.text.encode_prompt("hi")])
    scores = model.predict({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"]
    assert model.generate("hi", max_new_tokens=1) == model.text.decode([int(scores[0, -1].argmax())])
