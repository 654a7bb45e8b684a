"""Normalisation on the device, so that batches are copied to it as uint8."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from shufflenet_fn.data.native.reader import NativeReader
from shufflenet_fn_backends.support.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor) -> Tensor:
    """Return ``(images - 255 * mean) / (255 * std)``, torchvision's ToTensor and Normalize in one.

    Args:
      images: uint8 (N, 3, H, W), any memory format.

    Returns:
      float32 (N, 3, H, W) in the memory format of ``images``.

    Raises:
      UsageError: ``images`` are not uint8 (N, 3, H, W).
    """
    return normalizer(device=images.device)(images)


def normalizer(
    *, device: torch.device | str = "cpu", reuse: bool = False, native: NativeReader | None = None
) -> Callable[[Tensor], Tensor]:
    """Return ``normalize`` with its constants on ``device``, for a loop that must not copy them.

    With ``reuse``, all results in a thread share memory: each is valid only until the next call. Do not call
    it inside ``torch.inference_mode``, because autograd cannot use memory allocated there. Fresh memory for
    each batch would cost the host several times the arithmetic, because the system clears its pages. On a CPU
    with few threads, ``native`` then computes the same in one pass over the memory.
    """
    scale = torch.tensor([1.0 / (255.0 * std) for std in IMAGENET_STD], device=device)
    pairs = zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
    bias = torch.tensor([-mean / std for mean, std in pairs], device=device)
    kept = _Kept() if reuse else None

    def apply(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(
                "images to normalise must be uint8 of shape (N, 3, H, W), but are "
                f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}. Pass pixels from 0 to "
                "255, not yet scaled, with channels before height and width."
            )
        floats = kept.like(images) if kept else torch.empty_like(images, dtype=torch.float32)
        if images.device.type != "cpu" or not images.is_contiguous(memory_format=torch.channels_last):
            floats.copy_(images).mul_(scale.view(1, -1, 1, 1)).add_(bias.view(1, -1, 1, 1))
        elif reuse and native is not None and torch.get_num_threads() < _MANY_THREADS:
            native.normalise(images, scale, bias, out=floats)
        else:
            # Repeat the constants over a whole row: an innermost dimension of three leaves a CPU's vector
            # units idle.
            width = images.shape[3]
            rows = floats.copy_(images).permute(0, 2, 3, 1).flatten(2)
            rows.mul_(scale.repeat(width)).add_(bias.repeat(width))
        return floats

    return apply


_MANY_THREADS = 4
"""Threads with which torch's three passes over the memory take less time than one pass of one thread."""


class _Kept(threading.local):
    """Reused memory of each thread, which grows as needed."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def like(self, images: Tensor) -> Tensor:
        """Return memory for float32 values in the layout of ``images``."""
        size = images.numel()
        if self._memory.numel() < size:
            self._memory = torch.empty(size, device=images.device)
        return self._memory[:size].as_strided(images.shape, images.stride())
