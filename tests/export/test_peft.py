"""Adapters go both ways between a bundle and HF PEFT."""

import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from small_models import ConvNet, image_batch, lora, text_batch, tiny_llama

import edgepeft
import edgepeft_export

MAX_DIFFERENCE = 1e-4


def logits_in_peft(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> np.ndarray:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**inputs).logits.numpy()


def test_adapter_trained_on_the_device_opens_in_peft(bundles: Path, tmp_path: Path) -> None:
    """PeftModel.from_pretrained gives the device's logits after training there."""
    model = edgepeft.load(bundles / "tiny-llama")
    batch = text_batch(6, 14, seed=3)
    rows = [{name: value[i].numpy() for name, value in batch.items()} for i in range(6)]
    arguments = edgepeft.TrainingArguments(learning_rate=1e-2, max_steps=8, batch_size=2)
    result = edgepeft.Trainer(model, arguments).fit(rows)
    result.adapter.save(tmp_path / "adapter")
    theirs = logits_in_peft(peft.PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter"), batch)
    untrained = logits_in_peft(tiny_llama(), batch)
    ours = model.predict({name: value.numpy() for name, value in batch.items() if name != "labels"})["logits"]
    assert np.abs(ours - theirs).max() <= MAX_DIFFERENCE
    assert np.abs(theirs - untrained).max() > 100 * MAX_DIFFERENCE


def test_adapter_made_by_peft_is_used_on_the_device(bundles: Path, tmp_path: Path) -> None:
    """An adapter that PEFT saved gives PEFT's logits on the device."""
    theirs = peft.get_peft_model(tiny_llama(), lora("q_proj", "v_proj", task="CAUSAL_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    batch = text_batch(3, 11, seed=4)
    model = edgepeft.load(bundles / "tiny-llama", tmp_path / "adapter")
    ours = model.predict({name: value.numpy() for name, value in batch.items() if name != "labels"})["logits"]
    assert np.abs(ours - logits_in_peft(theirs, batch)).max() <= MAX_DIFFERENCE


def test_wrapped_model_keeps_its_adapter(tmp_path: Path) -> None:
    """A model that PEFT wrapped before is exported with the adapter's values as they are."""
    wrapped = peft.get_peft_model(tiny_llama(), lora("q_proj", task="CAUSAL_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    out = tmp_path / "bundle"
    edgepeft_export.export(wrapped, text_batch(), loss="causal_lm", adapter=None, output=out, check=False)
    saved = edgepeft.Bundle.open(out).initial_adapter()
    expected = peft.get_peft_model_state_dict(wrapped)
    assert saved.tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(saved.tensors[name], value.numpy())


def test_verification_draws_frozen_tensors_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in LoRA-FA, whose A stays as it was drawn: part of the bundle's base, and the same only from the same seed."""
    from peft import get_peft_model

    def frozen_a(model: torch.nn.Module, config: peft.PeftConfig) -> peft.PeftModel:
        wrapped = get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(requires_grad=False)
        return wrapped

    monkeypatch.setattr(sys.modules["edgepeft_export.attach"], "get_peft_model", frozen_a)
    given = {"model": ConvNet(), "example_inputs": image_batch(), "loss": "cross_entropy"}
    edgepeft_export.export(**given, adapter=lora("head"), output=tmp_path / "bundle", seed=3)
    bundle = edgepeft.Bundle.open(tmp_path / "bundle")
    assert [name.split(".")[-2] for name in bundle.manifest.adapter_names] == ["lora_B"]
    given["model"] = ConvNet()
    assert edgepeft_export.verify_model(bundle, **given, seed=3).passed
    given["model"] = ConvNet()
    with pytest.raises(edgepeft_export.ExportError, match="differs from PyTorch"):
        edgepeft_export.verify_model(bundle, **given, seed=4)
