"""An export that fails says at which stage, why, and what to do; and leaves nothing behind."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import ConvNet, image_batch, lora, text_batch, tiny_llama
from torch import Tensor, nn

import edgepeft_export
from edgepeft.manifest import ImageInfo
from edgepeft_export import ExportError
from edgepeft_export.onnx_ops import op


class Sorts(nn.Module):
    """Calls an operator that has no ONNX translation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.inner(x).detach()) + self.inner(x)


def attempt(tmp_path: Path, model: nn.Module, batch: Mapping[str, Tensor], **changes) -> ExportError:
    """Exports, expects a refusal, and checks that no folder is left."""
    arguments = {"loss": "cross_entropy", "adapter": None, "output": tmp_path / "out"} | changes
    with pytest.raises(ExportError) as caught:
        edgepeft_export.export(model, batch, **arguments)
    assert list(tmp_path.iterdir()) == []
    return caught.value


def test_nothing_to_train(tmp_path: Path) -> None:
    """A frozen model without an adapter."""
    model = ConvNet().requires_grad_(False)
    error = attempt(tmp_path, model, image_batch())
    assert error.stage == "attach"
    assert "no trainable parameter" in str(error)
    assert "Give an adapter config" in str(error)


def test_an_unsupported_operator_is_named_with_its_module(tmp_path: Path) -> None:
    """And the message says where to add it."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), Sorts()))
    batch = {"input": torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])}
    error = attempt(tmp_path, model, batch)
    assert error.stage == "lower"
    assert str(error).startswith(
        "lower: operator prims.bessel_j0.default (module 1.1) has no ONNX translation."
    )
    assert "gradients.py" in str(error)


def test_an_operator_of_the_model_itself(tmp_path: Path) -> None:
    """Called by no module inside it: the model's class is named."""
    batch = {"x": torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])}
    assert "bessel_j0.default (module Sorts) has no" in str(attempt(tmp_path, Sorts(), batch))


class Convolves(nn.Module):
    """Three convolutions in a row, of which the middle one is given."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.before = nn.Conv1d(4, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Identity(), middle)
        self.after = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.block(self.before(x))).mean(2)


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (nn.Conv1d(4, 4, 3, padding=1, groups=2), "a convolution with groups=2 cannot be trained. Freeze"),
        (
            nn.ConvTranspose1d(4, 4, 3, padding=1),
            "the gradient of a transposed convolution is not supported.",
        ),
    ],
)
def test_a_convolution_that_cannot_be_trained(tmp_path: Path, middle: nn.Module, words: str) -> None:
    """Is named by its module, and the reason is given once."""
    batch = {"x": torch.randn(3, 4, 8), "labels": torch.tensor([0, 1, 2])}
    assert str(attempt(tmp_path, Convolves(middle), batch)).startswith(f"lower: module block.1: {words}")


def test_a_trainable_attention_bias(tmp_path: Path) -> None:
    """Under PyTorch's fused attention it has no gradient here; the message is ours, once."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=self.bias).mean((1, 3))

    batch = {"x": torch.randn(3, 2, 5, 4), "labels": torch.tensor([0, 1, 2])}
    error = attempt(tmp_path, Biased(), batch)
    assert str(error).startswith("trace: an attention mask or position bias depends on a trainable tensor")


def test_target_modules_that_are_not_there(tmp_path: Path) -> None:
    """PEFT's own words, as an error of the attach stage."""
    error = attempt(tmp_path, ConvNet(), image_batch(), adapter=lora("q_proj"))
    assert error.stage == "attach"
    assert "q_proj" in str(error)


def test_an_adapter_on_a_wrapped_model(tmp_path: Path) -> None:
    """Two adapters at once are ambiguous."""
    wrapped = get_peft_model(ConvNet(), LoraConfig(target_modules=["head"]))
    assert "wrapped by PEFT already" in str(attempt(tmp_path, wrapped, image_batch(), adapter=lora("head")))


def test_an_unknown_loss(tmp_path: Path) -> None:
    """The message lists those that are known."""
    assert "causal_lm, cross_entropy, mse" in str(attempt(tmp_path, ConvNet(), image_batch(), loss="hinge"))


def test_a_model_that_branches_on_its_data(tmp_path: Path) -> None:
    """torch.export's reason comes through."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else self.inner(-x)

    error = attempt(tmp_path, Branches(), {"x": torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])})
    assert error.stage == "trace"


def test_a_tensor_that_the_loss_does_not_reach(tmp_path: Path) -> None:
    """A trainable tensor without a gradient must be frozen."""
    model = ConvNet()
    model.unused = nn.Linear(2, 2)
    error = attempt(tmp_path, model, image_batch())
    assert error.stage == "trace"
    assert str(error).endswith(
        "a parameter that did not receive a gradient. Freeze it (requires_grad=False)."
    )


def test_an_output_that_exists(tmp_path: Path) -> None:
    """Is left as it was, before any work."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ExportError, match="exists"):
        edgepeft_export.export(
            tiny_llama(), text_batch(), loss="causal_lm", adapter=lora("q_proj"), output=tmp_path / "out"
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    """A function of outputs and batch is differentiated like a named one, and verified."""

    def margin(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        right = outputs["logits"].gather(1, batch["labels"].unsqueeze(1))
        return torch.relu(1.0 - right + outputs["logits"]).mean()

    report = edgepeft_export.export(
        ConvNet(), image_batch(), loss=margin, adapter=lora("head"), output=tmp_path / "out"
    )
    assert report.rows
    assert report.passed


def test_a_bundle_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification goes red when the graph computes something else: here, another slope of SiLU."""
    from edgepeft_export.composites import silu

    real = silu._slope_onnx
    monkeypatch.setattr(silu, "_slope_onnx", lambda x: (real(x)[0], real(x)[0]))
    with pytest.raises(ExportError, match="differs from PyTorch") as caught:
        edgepeft_export.export(
            tiny_llama(), text_batch(), loss="causal_lm", adapter=lora("q_proj"), output=tmp_path / "out"
        )
    assert "FAILED" in str(caught.value)
    assert "gradients" in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "what was found wrong is not there to be loaded"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": "picture"}, r"image prepares 'picture' as \[1, 8, 8\] a row, the example batch has None"),
        ({"height": 9}, r"image prepares 'image' as \[1, 9, 8\] a row, the example batch has \[1, 8, 8\]"),
        ({"channels": 3}, r"image prepares 'image' as \[3, 8, 8\]"),
        ({"mean": [0.5, 0.5]}, r"image has mean \[0.5, 0.5\] and std \[0.5\]; expected 1 numbers each"),
        ({"std": [0.0]}, "std above 0"),
    ],
)
def test_images_that_the_model_does_not_take(
    tmp_path: Path, changes: Mapping[str, object], words: str
) -> None:
    """Told before the model is traced."""
    sound = {"input": "image", "channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    info = ImageInfo(**(sound | changes))
    error = attempt(tmp_path, ConvNet(), image_batch(), adapter=lora("head"), image=info)
    assert error.stage == "attach"
    assert re.search(words, str(error))


def test_a_graph_that_the_engine_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification says so as an error of its own stage."""
    from edgepeft_export.composites import silu

    monkeypatch.setattr(silu, "_slope_onnx", lambda x: (x, op.GatherND(x, op.Constant(value_ints=[9, 9]))))
    module = nn.Sequential(nn.Linear(4, 4), nn.SiLU())
    batch = {"input": torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])}
    error = attempt(tmp_path, module, batch)
    assert error.stage == "verify"
    assert "ONNX Runtime refused the batch" in str(error)


@pytest.mark.parametrize(
    "path",
    [
        "../evil.txt",
        "/evil.txt",
        "assets/../../evil.txt",
        "graphs/infer.onnx",
        "manifest.json",
        "assets/a b.txt",
        "assets/.hidden",
        "assets",
        "assets/",
        "assetsX/a",
    ],
)
def test_an_asset_without_a_place(tmp_path: Path, path: str) -> None:
    """A path that leaves the bundle, or takes the place of another file, is refused before any work."""
    folder = tmp_path / "inside"
    folder.mkdir()
    error = attempt(folder, ConvNet(), image_batch(), assets={path: b"x"}, adapter=lora("head"))
    assert error.stage == "pack"
    assert repr(path) in str(error)
    assert [each.name for each in tmp_path.iterdir()] == ["inside"]


def test_settings_that_no_manifest_holds(tmp_path: Path) -> None:
    """What a device would refuse is an error of the export, and nothing is left."""
    error = attempt(
        tmp_path, ConvNet(), image_batch(), training={"learning_rate": float("nan")}, adapter=lora("head")
    )
    assert error.stage == "pack"
    assert "a device would refuse the manifest" in str(error)
