"""How a batch lies in memory: labels and images in one piece, so that one copy brings both to a device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LABEL, _ALIGNMENT = 8, 512
"""Bytes of an int64, and what a device's kernels want the images to begin at a multiple of."""


class Parts(NamedTuple):
    """Views of a batch's memory.

    Attributes:
      images: uint8 (N, 3, H, W) in channels_last memory.
      labels: int64 (N,).
      partners: int64 (N,), the second labels of mixed images.
      weight: float32, 0-dim, of the first labels of mixed images.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    weight: Tensor


class Layout(NamedTuple):
    """Where the parts of a batch lie in a flat uint8 tensor: labels first, so that few images are a prefix.

    Attributes:
      capacity: images that there is room for.
      size: their side in pixels.
    """

    capacity: int
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes of a full batch."""
        return self.used(self.capacity)

    def used(self, count: int) -> int:
        """Bytes up to the end of ``count`` images."""
        return self._images_at + count * self.size * self.size * 3

    def parts(self, memory: Tensor, count: int) -> Parts:
        """The views for ``count`` images, on whatever device ``memory`` is."""
        labels = memory[: 2 * _LABEL * self.capacity].view(torch.int64).view(2, self.capacity)
        weight_at = 2 * _LABEL * self.capacity
        images = memory[self._images_at : self.used(count)]
        return Parts(
            images.view(count, self.size, self.size, 3).permute(0, 3, 1, 2),
            labels[0, :count],
            labels[1, :count],
            memory[weight_at : weight_at + 4].view(torch.float32)[0],
        )

    @property
    def _images_at(self) -> int:
        head = 2 * _LABEL * self.capacity + _LABEL
        return -(-head // _ALIGNMENT) * _ALIGNMENT
