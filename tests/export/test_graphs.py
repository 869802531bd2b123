"""The graphs of the small bundles: what must not be in them, and what is there once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from small_models import RECIPES, VOCABULARY, lora, text_batch, tiny_llama
from torch import Tensor, nn
from torch.nn import functional

import edgepeft_export
from edgepeft import tensors
from edgepeft.bundle import Bundle
from edgepeft_export import default_axes, passes
from edgepeft_export.attach import as_traced
from edgepeft_export.losses import as_loss
from edgepeft_export.lower import lower
from edgepeft_export.trace import StepModule, trace


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
    assert found["Sin"] == found["Cos"] == 1, "the angles are taken once, and have no backward"
    assert not {"Pow", "ScatterElements"} & found.keys()
    assert found["ScatterND"] == 1, "the rows that are counted go back to their places"
    assert found["Slice"] == 3, "labels, and the two halves of the rotary table"
    assert found["Transpose"] <= 26


class WrittenOutNorm(nn.Module):
    """RMSNorm as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Gated(nn.Module):
    """The gate of a gated linear unit: two halves of one tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x) * x


class Scaled(nn.Module):
    """A frozen layer above a trainable scale, so that the layer has a backward."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.scale)


def backward_of(layer: nn.Module) -> Counter[str]:
    """The operators that compute gradients alone, of a layer on [batch, length, 8] and of a scale below it."""
    model = Scaled(layer)
    batch = {"x": torch.rand(2, 3, 8), "labels": torch.rand(2, 3, 8)}
    loss = as_loss(lambda outputs, given: (outputs["logits"] * given["labels"]).sum())
    with as_traced(model):
        joint = lower(trace(StepModule(model, loss, ("labels",)), batch, default_axes(batch)))
    passes.run(joint)
    forward: set[ir.Node] = set()
    needed = list(joint.graph.outputs[:3])  # loss, weight and logits; the gradient comes last
    while needed:
        node = needed.pop().producer()
        if node is not None and node not in forward:
            forward.add(node)
            needed += [value for value in node.inputs if value is not None]
    return Counter(node.op_type for node in joint.graph if node not in forward)


#: By layer, what its backward adds to that of the scale alone, and what of it reads the forward's results.
BACKWARDS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "LayerNorm": (lambda: nn.LayerNorm(8), {"Mul": 5, "Sub": 3, "ReduceMean": 2}),
    "GELU": (nn.GELU, {"Mul": 7, "Erf": 1, "Add": 2, "Exp": 1}),
    "GELU, tanh": (lambda: nn.GELU("tanh"), {"Mul": 11, "Add": 4, "Tanh": 1, "Sub": 1}),
    "SiLU": (nn.SiLU, {"Mul": 2, "Sub": 1, "Add": 1}),
    "SwiGLU": (Gated, {"Mul": 4, "Sub": 1, "Add": 2}),
    "RMSNorm": (
        WrittenOutNorm,
        {"Mul": 4, "ReduceSumSquare": 1, "Add": 1, "Sqrt": 1, "ReduceMean": 1, "Div": 2, "Sub": 1},
    ),
    "Softmax": (lambda: nn.Softmax(-1), {"Mul": 2, "ReduceSum": 1, "Sub": 1}),
    "ReLU": (nn.ReLU, {"LessOrEqual": 1, "Where": 1}),
}


@pytest.fixture(scope="module")
def of_the_scale() -> Counter[str]:
    return backward_of(nn.Identity())


@pytest.mark.parametrize("layer", BACKWARDS)
def test_the_backward_of_a_layer_is_short(layer: str, of_the_scale: Counter[str]) -> None:
    """As many nodes as it needs; the statistics of a norm and the sigmoid of a SiLU come from the forward."""
    make, expected = BACKWARDS[layer]
    found = backward_of(make())
    found.subtract(of_the_scale)
    assert +found == expected
    assert not -found


def test_architecture_tells_the_length_of_a_backward() -> None:
    """docs/architecture.md has the figure of the table above."""
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    assert f"`RMSNormalization` | {sum(BACKWARDS['RMSNorm'][1].values())} nodes" in text


@pytest.mark.parametrize("bundle", ["tiny-llama", "tiny-bert", "conv-net"])
def test_a_bundle_is_little_more_than_its_base(bundles: Path, bundle: str) -> None:
    """All files together: at most 1.05 times the base in float32, and 5 MB for graphs and tokenizer."""
    base = 4 * Bundle.open(bundles / bundle).manifest.model.parameters
    size = sum(path.stat().st_size for path in (bundles / bundle).rglob("*") if path.is_file())
    assert size <= 1.05 * base + 5e6
    assert size <= 1.05 * base + 0.5e6, "of models this small the graphs take less"


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
    graphs = Bundle.open(bundles / bundle).manifest.graphs
    for name in {"infer", "evaluate", "train", "decode"} & graphs.keys():
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
