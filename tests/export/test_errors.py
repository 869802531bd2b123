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
    batch = {"x": torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])}
    error = attempt(tmp_path, Sorts(), batch)
    assert error.stage == "lower"
    assert "bessel_j0" in str(error)
    assert "gradients.py" in str(error)


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
    assert "must be frozen" in str(error)


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
