"""Losses by name: a row each. A loss maps the model's outputs and the batch to (mean, how many were counted)."""

import math
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgepeft import names
from edgepeft.data import IGNORED
from edgepeft_export.errors import ExportError

#: Outputs of the model by name, inputs of the batch by name -> mean loss [] and count [], both float32.
Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], tuple[Tensor, Tensor]]


def causal_lm(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy: `logits` [batch, length, vocabulary], `labels` [batch, length] int64.

    Prompt tuning puts virtual tokens, which have no labels, in front: then `logits` are longer.
    """
    logits, length = outputs["logits"], batch[names.LABELS].shape[1]
    if logits.shape[1] != length:
        logits = logits[:, logits.shape[1] - length :]
    labels = functional.pad(batch[names.LABELS][:, 1:], (0, 1), value=IGNORED).reshape(-1)
    loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels, ignore_index=IGNORED)
    return loss, (labels != IGNORED).sum().float()


def cross_entropy(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Classification: `logits` [batch, classes], `labels` [batch] int64; or both with further axes behind, as in PyTorch."""
    logits, labels = outputs["logits"], batch[names.LABELS]
    if labels.dim() > 1:
        logits = logits.movedim(1, -1).reshape(-1, logits.shape[1])
        labels = labels.reshape(-1)
    return functional.cross_entropy(logits, labels), (labels != IGNORED).sum().float()


def mse(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Regression: `logits` and `labels` of one shape; labels may be whole numbers.

    Raises:
        ExportError: The shapes differ; PyTorch would compare each with each.
    """
    logits, labels = _compared(outputs, batch)
    return functional.mse_loss(logits, labels), torch.ones_like(labels).sum()


def padded_mse(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As `mse`, for labels of unequal size, which are padded with -100: that is not counted."""
    logits, labels = _compared(outputs, batch)
    counted = labels != IGNORED
    weight = counted.sum().float()
    total = torch.where(counted, logits - labels, 0.0).square().sum()
    return torch.where(
        weight > 0, total / weight.clamp(min=1), math.nan
    ), weight  # gradients of nothing are 0


def _compared(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits, labels = outputs["logits"], batch[names.LABELS].float()
    if logits.shape != labels.shape:
        raise ExportError(
            "trace",
            f"mse compares logits {list(logits.shape)} with labels {list(labels.shape)}; expected one shape. Reshape the "
            "labels, or the model's output.",
        )
    return logits, labels


LOSSES: dict[str, Loss] = {"causal_lm": causal_lm, "cross_entropy": cross_entropy, "mse": mse}


def as_loss(loss: str | Callable[..., Tensor], label_axes: Collection[int] = ()) -> Loss:
    """A loss by name, or a user's function: its mean then counts as many rows as the batch has.

    Args:
        loss: The name or the function.
        label_axes: The axes of the labels that vary; where it is more than the batch's, labels are padded.

    Raises:
        ExportError: No loss has that name.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ExportError(
                "attach", f"unknown loss {loss!r}; expected one of {', '.join(LOSSES)} or a function."
            )
        return padded_mse if loss == "mse" and any(label_axes) else LOSSES[loss]

    def counted(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        rows = next(value.shape[0] for value in batch.values() if value.dim())
        return loss(outputs, batch), torch.ones(rows, dtype=torch.float32).sum()

    return counted
