"""Composites: each finds what models write out, and has PyTorch's own values and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgepeft_export.composites import attention, cross_entropy, linear_cross_entropy, rms_norm, rotary, silu
from edgepeft_export.composites._fx import drop_identities


class WrittenOutNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)).to(torch.float32)


def _rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class WrittenOutRotary(nn.Module):
    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        both = torch.cat((angles, angles), dim=-1)
        cos, sin = both.cos().unsqueeze(1), both.sin().unsqueeze(1)
        return x * cos + _rotate_half(x) * sin


class UnequalRotary(nn.Module):
    """Not a rotation: the two halves of the table differ."""

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        both = torch.cat((angles, 2 * angles), dim=-1)
        cos, sin = both.cos().unsqueeze(1), both.sin().unsqueeze(1)
        return x * cos + _rotate_half(x) * sin


class DoubledBatch(nn.Module):
    """Not a rotation: the table holds the same values twice along the batch, not along the last axis."""

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        both = torch.cat((angles, angles), dim=0)
        cos, sin = both.cos().unsqueeze(1), both.sin().unsqueeze(1)
        return x * cos + _rotate_half(x) * sin


class StackedHalves(nn.Module):
    """Not a rotation: the halves, of one number each, are joined along the batch."""

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        both = torch.cat((angles, angles), dim=-1)
        cos, sin = both.cos().unsqueeze(1), both.sin().unsqueeze(1)
        return x * cos + torch.cat((-x[..., 1:], x[..., :1]), dim=0) * sin


class Gated(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.silu(x) * y + functional.silu(y)


class Attends(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        shape = (key.shape[0], key.shape[1], 2, *key.shape[2:])
        repeated = key[:, :, None].expand(shape).reshape(key.shape[0], -1, *key.shape[2:])
        bias = None if self.causal else mask
        return functional.scaled_dot_product_attention(
            query, repeated, repeated * 0.5 + repeated * 0.5, attn_mask=bias, is_causal=self.causal
        )


class Head(nn.Module):
    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(11, 8), requires_grad=not frozen)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = functional.linear(hidden, self.weight)[:, :-1]
        return functional.cross_entropy(logits.reshape(-1, 11), labels[:, 1:].reshape(-1))


def labels() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    result = torch.randint(0, 11, (2, 6), generator=generator)
    result[0, :4] = -100
    return result


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


#: Composite, module, inputs, operators that must be there afterwards, and those that must be gone.
CASES: dict[
    str, tuple[Any, Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], set[str], set[str]]
] = {
    "rms_norm": (rms_norm, WrittenOutNorm, lambda: (rand(2, 3, 8),), {"rms_norm"}, {"pow", "rsqrt", "mean"}),
    "rotary": (rotary, WrittenOutRotary, lambda: (rand(2, 3, 5, 8), rand(1, 5, 4)), {"rotary"}, {"neg"}),
    "not rotary": (rotary, UnequalRotary, lambda: (rand(2, 3, 5, 8), rand(1, 5, 4)), {"neg"}, {"rotary"}),
    "doubled batch": (
        rotary,
        DoubledBatch,
        lambda: (rand(2, 3, 5, 8), rand(1, 5, 8)),
        {"neg"},
        {"rotary"},
    ),
    "stacked halves": (
        rotary,
        StackedHalves,
        lambda: (rand(1, 3, 5, 2), rand(1, 5, 1)),
        {"neg"},
        {"rotary"},
    ),
    "silu": (silu, Gated, lambda: (rand(2, 3), rand(2, 3) + 1), {"silu", "swiglu"}, set()),
    "attention, masked": (
        attention,
        lambda: Attends(causal=False),
        lambda: (rand(2, 4, 5, 8), rand(2, 2, 5, 8), torch.ones(5, 5).tril().bool().expand(2, 1, 5, 5)),
        {"attention"},
        {"scaled_dot_product_attention"},
    ),
    "attention, causal": (
        attention,
        lambda: Attends(causal=True),
        lambda: (rand(2, 4, 5, 8), rand(2, 2, 5, 8), torch.ones(1)),
        {"attention"},
        {"scaled_dot_product_attention"},
    ),
    "frozen head": (
        linear_cross_entropy,
        lambda: Head(frozen=True),
        lambda: (rand(2, 6, 8), labels()),
        {"linear_cross_entropy"},
        {"cross_entropy_loss"},
    ),
    "trainable head": (
        linear_cross_entropy,
        lambda: Head(frozen=False),
        lambda: (rand(2, 6, 8), labels()),
        {"cross_entropy_loss"},
        {"linear_cross_entropy"},
    ),
    "scores": (
        cross_entropy,
        lambda: Head(frozen=False),
        lambda: (rand(2, 6, 8), labels()),
        {"cross_entropy"},
        {"cross_entropy_loss"},
    ),
}


#: Cases in which only the first input may be trained.
ONE_GRADIENT = {"rotary", "not rotary", "doubled batch", "stacked halves"}


@pytest.mark.parametrize("case", CASES)
def test_a_composite_is_found_and_has_the_same_values_and_gradients(case: str) -> None:
    """Values and gradients of the fused module are those of the module as it was written."""
    composite, make, make_inputs, there, gone = CASES[case]
    torch.manual_seed(0)
    module = make()
    inputs = make_inputs()
    program = torch.export.export(module, inputs, strict=False)
    drop_identities(program.graph_module)
    composite.fuse(program.graph_module)
    program.graph_module.graph.lint()
    program.graph_module.recompile()
    found = {str(node.target).split(".")[1] for node in program.graph.nodes if "." in str(node.target)}
    assert there <= found
    assert not gone & found

    results = []
    for function in (module, program.module()):
        given = tuple(x.clone() for x in inputs)
        for x in given[: 1 if case in ONE_GRADIENT else None]:
            x.requires_grad_(x.is_floating_point())
        value = function(*given)
        weights = torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape)
        (value * weights).sum().backward()
        results.append((value.detach(), [x.grad for x in given if x.grad is not None]))
    (expected, gradients), (got, fused) = results
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert len(fused) == len(gradients) > 0
    for one, other in zip(fused, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
