"""Losses and the counts that accuracy is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the batch, in float32 or wider.

    With smoothing ε the target is ``(1 - ε) * one_hot + ε / K`` over all K classes, as in megvii's recipe
    and in ``torch.nn.functional.cross_entropy`` (the Ascend label-smoothing module divides by K - 1).

    Args:
        logits: (N, K), floating point.
        labels: (N,), int64.
        label_smoothing: ε in [0, 1).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nnf.cross_entropy(wide, labels, label_smoothing=label_smoothing)


class Mix(NamedTuple):
    """What mixup or cutmix made of a batch's labels.

    ``partners``: (N,) int64, the label of the image that each image was mixed with. ``weight``: 0-dim
    float32 in [0, 1], the share of an image's own label; its partner's has the rest.
    """

    partners: Tensor
    weight: Tensor


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, mix: Mix | tuple[()], *, label_smoothing: float = 0.0
) -> Tensor:
    """``cross_entropy`` of images that were mixed; of plain ones if ``mix`` is ``()``.

    It is linear in the target, so the mean weighted by ``mix.weight`` of the losses of both labels is the
    loss of the mixed target, smoothed or not.

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
    """For every k the number of samples whose label is among the k largest logits: 0-dim int64 each.

    With fewer than k classes every sample counts. A row with a NaN counts as wrong.
    """
    largest = min(max(ks), logits.shape[1])
    top = logits.topk(largest, dim=1)
    # topk takes a NaN for the largest of all, so a row that has one begins with it; and NaN != NaN.
    first = top.values[:, :1]
    hits = (top.indices == labels[:, None]) & (first == first)
    return [hits[:, : min(k, largest)].sum() for k in ks]
