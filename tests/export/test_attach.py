"""What is trained, under which names: nothing in a bundle may be called like something else in it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from small_models import ConvNet, image_batch, lora, text_batch, tiny_llama
from torch import Tensor, nn

import edgepeft
import edgepeft_export
from edgepeft import names
from edgepeft_export import ExportError
from edgepeft_export.attach import attach

#: Every scalar that the graphs of a bundle know by name.
SCALARS = (
    "loss",
    "weight",
    "step",
    "gradient_norm",
    "accumulated_weight",
    "learning_rate",
    "momentum",
    "weight_decay",
    "max_grad_norm",
    "beta1",
    "beta2",
    "epsilon",
)


class Scales(nn.Module):
    """Multiplies by trainable tensors of the given names, in front of a frozen layer."""

    def __init__(self, *parameters: str) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3).requires_grad_(False)
        self.scales = parameters
        for name in parameters:
            *path, last = name.split(".")
            parent: nn.Module = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.register_parameter(last, nn.Parameter(torch.ones(4)))

    def forward(self, x: Tensor) -> Tensor:
        parameters = dict(self.named_parameters())
        for name in self.scales:
            x = x * parameters[name]
        return self.inner(x)


def batch(**renamed: str) -> dict[str, Tensor]:
    return {renamed.get("x", "x"): torch.randn(3, 4), "labels": torch.tensor([0, 1, 2])}


def export(model: nn.Module, inputs: Mapping[str, Tensor], path: Path, **changes) -> edgepeft.Bundle:
    """Exports, compares with PyTorch, trains a step on the device, and opens the bundle."""
    arguments = {"loss": "cross_entropy", "adapter": None} | changes
    report = edgepeft_export.export(model, inputs, output=path, **arguments)
    assert report.rows
    opened = edgepeft.load(path)
    rows = [{name: value[i].numpy() for name, value in inputs.items()} for i in range(2)]
    for optimizer in names.OPTIMIZERS:
        settings = edgepeft.TrainingArguments(max_steps=1, batch_size=1, gradient_accumulation=2)
        edgepeft.Trainer(opened, edgepeft.TrainingArguments(**vars(settings) | {"optimizer": optimizer})).fit(
            rows
        )
    return opened.bundle


def test_a_lone_layer(tmp_path: Path) -> None:
    """Its `weight` is not the weight of a batch: the trained one gets another name, the frozen one too."""
    bundle = export(nn.Linear(4, 3), {"input": torch.randn(3, 4), "labels": torch.arange(3)}, tmp_path / "a")
    assert sorted(bundle.manifest.adapter_names) == ["bias", "model.weight"]
    frozen = nn.Linear(200, 3)
    frozen.weight.requires_grad_(False)
    inputs = {"input": torch.randn(3, 200), "labels": torch.arange(3)}
    bundle = export(frozen, inputs, tmp_path / "b")
    assert bundle.manifest.adapter_names == ("bias",)
    (stored,) = bundle.weights.values()
    np.testing.assert_array_equal(stored, frozen.weight.detach().numpy())


def test_trained_tensors_that_are_called_like_a_setting(tmp_path: Path) -> None:
    """All at once, and some that only look like a gradient or a slot of another; the values stay apart."""
    odd = ("scale", "gradient.scale", "exp_avg.scale", "new.scale", "model.step", "labels", "logits", "x")
    model = Scales(*SCALARS, *odd)
    bundle = export(model, batch(), tmp_path / "bundle")
    renamed = {
        *SCALARS,
        "gradient.scale",
        "exp_avg.scale",
        "new.scale",
        "labels",
        "logits",
        "x",
    }
    expected = {f"model.{name}" for name in renamed - {"step"}} | {"model.model.step", "model.step", "scale"}
    assert set(bundle.manifest.adapter_names) == expected


def test_weights_that_are_called_like_inputs_and_inner_values(tmp_path: Path) -> None:
    """A frozen tensor called like an input, and an input called like an operator of the graph."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mul", torch.rand(100) + 0.5)
            self.register_buffer("loss", torch.rand(100) + 0.5)
            self.model = nn.Module()
            self.model.register_buffer("loss", torch.rand(100) + 0.5)
            self.inner = nn.Linear(100, 3)

        def forward(self, mul: Tensor, add: Tensor) -> Tensor:
            return self.inner((mul * self.mul + add) * self.loss * self.model.loss + add)

    inputs = {"mul": torch.randn(3, 100), "add": torch.randn(3, 100), "labels": torch.arange(3)}
    export(Frozen(), inputs, tmp_path / "bundle")


class Named(nn.Module):
    """Gives outputs of the given names."""

    def __init__(self, *outputs: str) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.outputs = outputs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: self.inner(x) for name in ("logits", *self.outputs)}


def refused(model: nn.Module, inputs: Mapping[str, Tensor], path: Path, **changes) -> ExportError:
    arguments = {"loss": "cross_entropy", "adapter": None} | changes
    with pytest.raises(ExportError) as caught:
        edgepeft_export.export(model, inputs, output=path / "out", **arguments)
    assert list(path.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("name", ["loss", "weight", "x", "labels", "gradient.inner.weight"])
def test_an_output_with_a_name_that_is_taken(tmp_path: Path, name: str) -> None:
    """It would take the place of the loss, or of an input."""
    error = refused(Named(name), batch(), tmp_path)
    assert error.stage == "trace"
    assert str(error).startswith(f"trace: the model's output {name!r} has the name of")
    assert "Wrap the model" in str(error)


def test_an_output_named_like_a_trained_tensor(tmp_path: Path) -> None:
    """Both are ports of the inference graph."""
    model = Named("inner.weight")
    assert "output 'inner.weight' has the name of a trainable" in str(refused(model, batch(), tmp_path))


@pytest.mark.parametrize("name", ["loss", "weight"])
def test_an_input_with_a_name_that_is_taken(tmp_path: Path, name: str) -> None:
    """Training gives an output of that name."""

    class Takes(nn.Linear):
        def forward(self, **inputs: Tensor) -> Tensor:
            return super().forward(inputs[name])

    error = refused(Takes(4, 3), batch(x=name), tmp_path)
    assert error.stage == "attach"
    assert f"the input {name!r}" in str(error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_model_that_is_not_float32(tmp_path: Path, dtype: torch.dtype, adapter: str | None) -> None:
    """Is refused before any work, with what to call."""
    config = lora("head") if adapter else None
    error = refused(ConvNet().to(dtype), image_batch(), tmp_path, adapter=config)
    assert error.stage == "attach"
    assert f"is {str(dtype).removeprefix('torch.')}; expected a float32 model" in str(error)
    assert "Call model.float()" in str(error)


def test_a_frozen_half_of_a_float32_adapter(tmp_path: Path) -> None:
    """PEFT makes a float32 adapter on a bfloat16 base: the base is what counts."""
    wrapped = get_peft_model(tiny_llama().to(torch.bfloat16), lora("q_proj", task="CAUSAL_LM"))
    assert "bfloat16" in str(refused(wrapped, text_batch(), tmp_path, loss="causal_lm"))


def test_an_adapter_that_has_a_name(tmp_path: Path) -> None:
    """PEFT's own name of the adapter is not in the bundle, as it is not in adapter_model.safetensors."""
    wrapped = get_peft_model(tiny_llama(), lora("q_proj", task="CAUSAL_LM"), adapter_name="alice")
    edgepeft_export.export(wrapped, text_batch(), loss="causal_lm", adapter=None, output=tmp_path / "bundle")
    saved = edgepeft.Bundle.open(tmp_path / "bundle").initial_adapter()
    expected = get_peft_model_state_dict(wrapped, adapter_name="alice")
    assert saved.tensors.keys() == expected.keys()
    assert not [name for name in saved.tensors if "alice" in name]
    for name, value in expected.items():
        np.testing.assert_array_equal(saved.tensors[name], value.numpy())


def test_a_folder_of_the_workstation_is_not_told() -> None:
    """An adapter names its base, not where that lay."""
    model = tiny_llama()
    model.name_or_path = model.config._name_or_path = "/home/someone/models/tiny"
    attached = attach(model, lora("q_proj", task="CAUSAL_LM"), 0)
    assert attached.config["base_model_name_or_path"] == "tiny"
