"""The graphs of the small bundles: what must not be in them, and what is there once."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from small_models import RECIPES, VOCABULARY, lora, text_batch, tiny_llama

import edgepeft_export
from edgepeft import tensors
from edgepeft.bundle import Bundle


def graph(bundles: Path, bundle: str, name: str) -> onnx.GraphProto:
    return onnx.load(bundles / bundle / "graphs" / f"{name}.onnx", load_external_data=False).graph


def operators(proto: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.node)


def test_each_composite_is_one_or_few_nodes(bundles: Path) -> None:
    """Two layers of Llama: norms and rotary embeddings are single nodes, in both directions."""
    found = operators(graph(bundles, "tiny-llama", "train"))
    assert found["RMSNormalization"] == 5
    assert (
        found["RotaryEmbedding"] == 4 + 3
    )  # backward: not for the first layer's keys, below which all is frozen
    assert found["Softmax"] == 2
    assert found["Sigmoid"] == 2
    assert not {"Pow", "ScatterElements", "Sin_backward", "Cast_backward"} & found.keys()
    assert found["ScatterND"] == 1, "the rows that are counted go back to their places"
    assert found["Slice"] == 3, "labels, and the two halves of the rotary table"
    assert found["Transpose"] <= 26


def test_the_vocabulary_appears_in_two_products_only(bundles: Path) -> None:
    """Forward over the counted rows, and back; no one-hot tensor, no logits of other rows."""
    proto = graph(bundles, "tiny-llama", "train")
    head = next(i.name for i in proto.initializer if list(i.dims) == [VOCABULARY, 64])
    users = [node for node in proto.node if head in node.input]
    assert sorted(node.op_type for node in users) == ["Gather", "Gather", "Gemm", "Gemm"]
    product = next(node for node in users if node.op_type == "Gemm")
    rows = next(node for node in proto.node if product.input[0] in node.output)
    assert rows.op_type == "GatherND"


@pytest.mark.parametrize("bundle", ["tiny-llama", "tiny-bert", "conv-net"])
def test_frozen_weights_are_stored_once(bundles: Path, bundle: str) -> None:
    """base.safetensors is as large as the base; the graphs share its tensors and hold none of their own."""
    opened = Bundle.open(bundles / bundle)
    stored = sum(array.nbytes for array in opened.weights.values())
    assert stored <= 4 * opened.manifest.model.parameters * 1.05
    for name in ("infer", "evaluate", "train"):
        proto = graph(bundles, bundle, name)
        inside = [i for i in proto.initializer if i.data_location != onnx.TensorProto.EXTERNAL]
        assert all(len(i.raw_data) <= 256 for i in inside)
        assert (
            sorted(i.name for i in proto.initializer if i not in inside)
            == opened.manifest.graphs[name].weights
        )
        assert len({n.domain for n in proto.node} - {""}) == 0, "plain operators only"


@pytest.mark.parametrize("bundle", ["tiny-llama", "tiny-bert"])
def test_no_weight_is_transposed_at_run_time(bundles: Path, bundle: str) -> None:
    """A runtime would fold the transpose of a constant into a copy."""
    for name in ("infer", "evaluate", "train"):
        proto = graph(bundles, bundle, name)
        weights = {i.name for i in proto.initializer}
        assert not [n for n in proto.node if n.op_type == "Transpose" and n.input[0] in weights]


def test_the_adapter_is_an_input_of_every_graph(bundles: Path) -> None:
    """By PEFT's names, in the manifest's order."""
    manifest = Bundle.open(bundles / "tiny-llama").manifest
    for name in ("infer", "evaluate", "train"):
        inputs = [port.name for port in manifest.graphs[name].inputs]
        assert [i for i in inputs if "lora_" in i] == list(manifest.adapter_names)
    assert [port.name for port in manifest.data_inputs("infer")] == ["input_ids", "attention_mask"]
    assert manifest.graphs["infer"].outputs[0].shape == ["batch", "length", VOCABULARY]


def test_an_output_may_be_called_like_an_operator(tmp_path: Path) -> None:
    """`embedding` is also what the trace calls a look-up in a table: the output keeps the name, and PyTorch's values."""
    recipe = dict(RECIPES["embedder"]())
    report = edgepeft_export.export(**recipe, output=tmp_path / "bundle")
    assert report.rows
    outputs = Bundle.open(tmp_path / "bundle").manifest.graphs["infer"].outputs
    assert [port.name for port in outputs] == ["embedding", "logits"]


def test_the_same_export_gives_the_same_base_id(tmp_path: Path) -> None:
    """Seeds decide what is random, so that two exports of one model share their adapters."""
    ids = []
    for name in ("one", "two"):
        torch.manual_seed(len(name) + len(ids))
        edgepeft_export.export(
            tiny_llama(),
            text_batch(),
            loss="causal_lm",
            adapter=lora("q_proj"),
            output=tmp_path / name,
            check=False,
        )
        ids.append(Bundle.open(tmp_path / name).manifest.base_id)
    assert ids[0] == ids[1]
    first, second = (Bundle.open(tmp_path / name).initial_adapter() for name in ("one", "two"))
    assert tensors.serialize(first.tensors, {}) == tensors.serialize(second.tensors, {})
