"""Trains a small convolutional net on scikit-learn's digits and exports it, with data as a sensor would give it.

Usage: python samples/digits/workstation.py FOLDER      on the workstation's environment; writes FOLDER/bundle, /data
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig
from sklearn.datasets import load_digits
from torch import Tensor, nn

import edgepeft_export
from edgepeft.manifest import ImageInfo
from edgepeft_export.cli import quiet_libraries

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

#: Rows of each part of the 1,797 digits, shuffled. Settings were chosen on "tuning", which no figure comes from.
_PARTS = {"training": 800, "tuning": 200, "corrections": 300, "test": 497}
_SPLIT_SEED, _NET_SEED, _NOISE_SEED = 0, 0, 1
#: Rows of the example batch that is traced; its size is symbolic.
_EXAMPLE = 4
_EPOCHS, _BATCH, _LEARNING_RATE = 30, 32, 3e-3
#: Clean training digits that go along to the device, so that it does not forget them while it adapts.
_REHEARSAL = 200

#: What the bundle recommends: it is stored in it.
_TRAINING = {"learning_rate": 1e-3, "epochs": 20, "batch_size": 8}

Images = NDArray[np.float32]
Digits = tuple[Images, NDArray[np.int64]]


class ConvNet(nn.Module):
    """Two convolutions and a linear layer: images [batch, 1, 8, 8], 0 to 1 -> logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.head = nn.Linear(32 * 2 * 2, len(LABELS))

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # noqa: D102 - the class says it
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(image))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        return {"logits": self.head(x.flatten(1))}


def disturbed(images: Images, generator: np.random.Generator) -> Images:
    """What the worn sensor makes of images: moved, grey, with a pattern of its own and noise in every shot."""
    moved = np.zeros_like(images)
    moved[..., 1:] = images[..., :-1]  # one pixel to the right
    pattern = np.random.default_rng(7).normal(0, 0.15, images.shape[1:])  # the same in every shot
    noise = generator.normal(0, 0.1, images.shape)
    return np.clip(0.25 + 0.5 * moved + pattern + noise, 0, 1).astype(np.float32)


def load_parts() -> dict[str, Digits]:
    """scikit-learn's digits, [rows, 1, 8, 8] float32 from 0 to 1, in disjoint parts."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    ends = np.cumsum(list(_PARTS.values()))[:-1]
    split = zip(np.split(images, ends), np.split(labels[order].astype(np.int64), ends), strict=True)
    return dict(zip(_PARTS, split, strict=True))


def train(digits: Digits) -> ConvNet:
    """The net, trained on clean digits; one thread is the fastest for one so small."""
    torch.manual_seed(_NET_SEED)
    torch.set_num_threads(1)
    net = ConvNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    images, labels = (torch.from_numpy(part) for part in digits)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(images))
        for pick in (order[start : start + _BATCH] for start in range(0, len(order), _BATCH)):
            loss = nn.functional.cross_entropy(net(images[pick])["logits"], labels[pick])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def export(net: ConvNet, example: Digits, bundle: Path) -> None:
    """Writes the bundle: low-rank changes of the second convolution and the head are what a device trains.

    The example is of the worn sensor: clean digits, of which the net is sure, have losses too near 0 to compare.
    """
    images, labels = (torch.from_numpy(part) for part in example)
    report = edgepeft_export.export(
        net,
        {"image": images, "labels": labels},
        loss="cross_entropy",
        adapter=LoraConfig(r=8, lora_alpha=16, target_modules=["conv2", "head"]),
        output=bundle,
        name="digits",
        labels=LABELS,
        image=ImageInfo(input="image", channels=1, height=8, width=8, mean=[0.0], std=[1.0]),
        training=_TRAINING,
    )
    print(report.table())


def device_data(parts: dict[str, Digits]) -> dict[str, Digits]:
    """What the device meets: its sensor's shots to learn from and to be tested on, clean test and rehearsal digits."""
    noise = np.random.default_rng(_NOISE_SEED)
    return {
        "corrections": (disturbed(parts["corrections"][0], noise), parts["corrections"][1]),
        "disturbed_test": (disturbed(parts["test"][0], noise), parts["test"][1]),
        "clean_test": parts["test"],
        "rehearsal": (parts["training"][0][:_REHEARSAL], parts["training"][1][:_REHEARSAL]),
    }


def main(folder: Path) -> None:
    """Does all of it, unless it was done before."""
    if folder.exists():
        print(f"== {folder} is there already; remove it to train and export again")
        return
    quiet_libraries()
    print("== training a convolutional net on clean digits, and exporting it with LoRA, on PyTorch")
    parts = load_parts()
    net = train(parts["training"])
    data = device_data(parts)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    for name, (images, labels) in data.items():
        np.save(partial / "data" / f"{name}_images.npy", images)
        np.save(partial / "data" / f"{name}_labels.npy", labels)
    images, labels = data["corrections"]
    export(net, (images[:_EXAMPLE], labels[:_EXAMPLE]), partial / "bundle")
    partial.rename(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
