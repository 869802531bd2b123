"""PyTorch's values for the small bundles, stored beside them for machines that have no PyTorch."""

import json
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from safetensors import safe_open

#: Folder of the files, among the small bundles.
FOLDER = "reference"
#: Steps of AdamW whose losses are stored.
STEPS = 10
#: How far gradients and outputs may be from PyTorch's, relative to the largest value, and losses in training.
MAX_ERROR, MAX_DRIFT = 1e-5, 1e-4


class Settings(TypedDict):
    """Of AdamW; the rest is torch.optim.AdamW's."""

    learning_rate: float
    weight_decay: float
    max_grad_norm: float


class Call(NamedTuple):
    """A batch, and what PyTorch computes for it."""

    batch: dict[str, np.ndarray]
    loss: np.ndarray
    logits: np.ndarray
    gradients: dict[str, np.ndarray]


class Reference(NamedTuple):
    """A bundle's file: an adapter, calls under it, and the losses of a training that begins with it."""

    adapter: dict[str, np.ndarray]
    calls: list[Call]
    losses: np.ndarray
    settings: Settings


def key(*parts: object) -> str:
    """Name of an array in a file."""
    return "/".join(map(str, parts))


def load(bundles: Path, name: str) -> Reference:
    """The stored values of a bundle."""
    with safe_open(bundles / FOLDER / f"{name}.safetensors", "np") as file:
        arrays = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
        settings: Settings = json.loads(file.metadata()["settings"])

    def below(*parts: object) -> dict[str, np.ndarray]:
        beginning = key(*parts, "")
        return {
            each.removeprefix(beginning): value
            for each, value in arrays.items()
            if each.startswith(beginning)
        }

    calls = [
        Call(
            below("batch", index),
            arrays[key("loss", index)],
            arrays[key("logits", index)],
            below("gradient", index),
        )
        for index in range(len(below("loss")))
    ]
    return Reference(below("adapter"), calls, arrays[key("losses")], settings)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())
