"""Operations on uint8 batches where the batch is, so that a quarter of the bytes travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    images: Tensor,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``(images - 255 * mean) / (255 * std)``, torchvision's ToTensor and Normalize in one.

    Args:
      images: uint8 (N, 3, H, W), any memory format.
      mean: per channel, of images scaled to 0..1.
      std: per channel, of images scaled to 0..1.
      dtype: of the result; the arithmetic is float32 and rounded once.

    Returns:
      (N, 3, H, W) of ``dtype`` in the memory format of ``images``.
    """
    return normalizer(mean=mean, std=std, dtype=dtype, device=images.device)(images)


def normalizer(
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Callable[[Tensor], Tensor]:
    """``normalize`` with its constants on ``device`` once, for a loop that must not copy them."""
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device).view(1, -1, 1, 1)
    bias = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    bias = bias.view(1, -1, 1, 1)

    def apply(images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).mul_(scale).add_(bias).to(dtype)

    return apply
