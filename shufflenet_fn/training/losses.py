"""Losses, and counts of correct predictions."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Compute the mean cross-entropy over the batch, in float32 or wider.

    With label smoothing ε, the target is ``(1 - ε) * one_hot + ε / K`` over all K classes, as in megvii's
    recipe and in ``torch.nn.functional.cross_entropy``. (The Ascend label-smoothing module divides by K - 1.)

    Args:
        logits: (N, K), floating point.
        labels: (N,), int64.
        label_smoothing: ε in [0, 1).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nnf.cross_entropy(logits, labels, label_smoothing=label_smoothing)


class Mix(NamedTuple):
    """Labels of a batch that mixup or cutmix has mixed.

    ``partners``: (N,) int64, the label of the image that each image was mixed with. ``weight``: 0-dim
    float32 in [0, 1], the weight of an image's own label; the partner's label has weight ``1 - weight``.
    """

    partners: Tensor
    weight: Tensor


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, mix: Mix | tuple[()], *, label_smoothing: float = 0.0
) -> Tensor:
    """Compute ``cross_entropy`` of mixed images, or of plain images if ``mix`` is ``()``.

    Cross-entropy is linear in the target, so the loss of the mixed target is the weighted mean of the losses
    of both labels, with and without label smoothing.

    Args:
        logits: (N, K), floating point.
        labels: (N,), int64, each image's own.
        mix: the partners' labels, or ``()``.
        label_smoothing: ε in [0, 1).
    """
    own = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if not isinstance(mix, Mix):
        return own
    other = cross_entropy(logits, mix.partners, label_smoothing=label_smoothing)
    return mix.weight * own + (1.0 - mix.weight) * other


def correct_counts(logits: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """Count, for every k, the samples whose label is among the k largest logits. Each count is 0-dim int64.

    With fewer than k classes every sample counts. A row with a NaN counts as wrong.
    """
    largest = min(max(ks), logits.shape[1])
    top = logits.topk(largest, dim=1)
    # topk sorts NaN first, so a row with a NaN starts with it; and NaN != NaN.
    first = top.values[:, :1]
    hits = (top.indices == labels[:, None]) & (first == first)
    return [hits[:, : min(k, largest)].sum() for k in ks]
