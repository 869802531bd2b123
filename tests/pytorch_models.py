"""The small models in PyTorch, as the loss and the gradients of their bundles are compared with it, and its values as files."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from reference_values import STEPS, Settings, key
from safetensors.numpy import save_file
from small_models import RECIPES, image_batch, text_batch, without_types
from torch import Tensor

from edgepeft_export.attach import attach
from edgepeft_export.losses import as_loss
from edgepeft_export.trace import StepModule


def padded(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Marks the last tokens of the first row as padding."""
    batch["attention_mask"][0, -count:] = 0
    if batch["labels"].dim() == 2:
        batch["labels"][0, -count:] = -100
    return batch


#: "wide" is left out: thirteen million trained numbers, whose steps of AdamW let float32's rounding grow.
BATCHES = {
    "tiny-llama": [
        text_batch(1, 7, seed=1),
        padded(text_batch(5, 33, seed=2), 9),
        padded(text_batch(3, 20, seed=3), 2),
    ],
    "tiny-bert": [
        text_batch(1, 9, classes=3, seed=1),
        padded(text_batch(5, 31, classes=3, seed=2), 7),
        padded(text_batch(3, 20, classes=3, seed=3), 4),
    ],
    "embedder": [
        without_types(text_batch(1, 9, classes=3, seed=1)),
        padded(without_types(text_batch(5, 31, classes=3, seed=2)), 7),
        padded(without_types(text_batch(3, 20, classes=3, seed=3)), 4),
    ],
    "conv-net": [image_batch(1, seed=1), image_batch(7, seed=2), image_batch(3, seed=3)],
}


class PyTorchModel:
    """A small model with its adapter, moved off its start."""

    def __init__(self, name: str) -> None:
        recipe = RECIPES[name]()
        self.attached = attach(recipe["model"], recipe["adapter"], 0)
        self.attached.model.eval()
        self.step = StepModule(self.attached.model, as_loss(recipe["loss"]), ("labels",))
        named = dict(self.attached.model.named_parameters())
        self.parameters = {name: named[parameter] for parameter, name in self.attached.names.items()}
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.add_(0.05 * torch.randn(parameter.shape))

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: value.detach().numpy().copy() for name, value in self.parameters.items()}

    def backward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The step's outputs; gradients are left in the parameters."""
        for parameter in self.parameters.values():
            parameter.grad = None
        outputs = self.step(dict(batch))
        outputs["loss"].backward()
        return {name: value.detach() for name, value in outputs.items()}

    def adamw(
        self, batches: list[dict[str, Tensor]], steps: int, settings: Settings
    ) -> Iterator[tuple[float, float]]:
        """Trains on the batches in turn; gives each step's loss and the norm of its gradient."""
        parameters = list(self.parameters.values())
        optimizer = torch.optim.AdamW(
            parameters, lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
        )
        for index in range(steps):
            loss = float(self.backward(batches[index % len(batches)])["loss"])
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
            optimizer.step()
            yield loss, float(norm)


#: Of the steps that are compared.
SETTINGS: Settings = {"learning_rate": 1e-3, "weight_decay": 0.01, "max_grad_norm": 1.0}
#: Bundles whose values are stored.
STORED = ("tiny-llama", "tiny-bert", "conv-net")


def values(name: str) -> dict[str, np.ndarray]:
    """PyTorch's loss and gradients for each batch, and its losses in training on them, with what they were computed from."""
    model, found = PyTorchModel(name), {}
    for parameter, value in model.arrays().items():
        found[key("adapter", parameter)] = value
    for index, batch in enumerate(BATCHES[name]):
        outputs = model.backward(batch)
        for port, tensor in batch.items():
            found[key("batch", index, port)] = tensor.numpy()
        for output in ("loss", "logits"):
            found[key(output, index)] = outputs[output].numpy()
        for parameter, tensor in model.parameters.items():
            found[key("gradient", index, parameter)] = tensor.grad.numpy().copy()
    losses = [loss for loss, _ in model.adamw(BATCHES[name], STEPS, SETTINGS)]
    return {each: np.array(value, order="C") for each, value in found.items()} | {
        key("losses"): np.array(losses)
    }


def write_values(folder: Path) -> None:
    """Writes a file for each stored bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STORED:
        save_file(values(name), folder / f"{name}.safetensors", {"settings": json.dumps(SETTINGS)})
