"""The joint graph computes what the model and its loss do, whatever operators they use."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgepeft_export


class FullOfOnes(nn.Module):
    """Spreads a trainable row, or number, over a batch by a product with ones."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.full_like(x, 1.0) * self.scale, x * torch.full_like(x.sum(), 1.0)), -1)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_products_with_ones_keep_their_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A tensor of ones is not the loss's own gradient: it may widen what it multiplies."""
    batch = {"x": torch.randn(3, 4), "labels": torch.randn(3, 8)}
    report = edgepeft_export.export(
        FullOfOnes(*shape), batch, loss="mse", adapter=None, output=tmp_path / "bundle"
    )
    assert report.rows
