"""Images in memory, and images of which only the header has been read.

The crop of an image is then known before its pixels are decoded.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn_backends.support.errors import UsageError


class Box(NamedTuple):
    """A rectangle inside an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


KEPT_BYTES = 64 * 2**20
"""Larger buffers are not kept, so that one huge image does not hold memory in every thread permanently."""


class Scratch(threading.local):
    """Reusable buffers, one for each use and thread. They grow and do not shrink.

    The system clears and maps each page of a fresh buffer on first touch, which takes a large part of the
    time of decoding into it.
    """

    def __init__(self) -> None:
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, use: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return a C-contiguous uint8 array of ``shape``, valid until the next call for the same ``use``."""
        size = math.prod(shape)
        memory = self._memory.get(use)
        if memory is None or memory.size < size:
            memory = np.empty(size, dtype=np.uint8)
            if size <= KEPT_BYTES:
                self._memory[use] = memory
        return memory[:size].reshape(shape)


RgbImage = npt.NDArray[np.uint8]

SPARE = 2
"""Number of decoded pixels that suffice for each pixel of the result, along each side.

Pillow's ``thumbnail`` uses the same value (``reducing_gap``). With fewer, the filter has too little effect.
"""


class Region(NamedTuple):
    """Pixels of a part of an image, to be resized by ``geometry.resize``.

    Attributes:
      pixels: uint8 (H, W, 3), a view.
      extent: height and width of the part, if it ends inside a pixel.
    """

    pixels: RgbImage
    extent: tuple[float, float] | None


@dataclass(frozen=True)
class LazyImage:
    """An image that is decoded on demand.

    Attributes:
      height, width: in pixels.
      decode: ``decode(reduction)`` gives the pixels, uint8 (ceil(height / reduction),
        ceil(width / reduction), 3). May raise ``BadImage``.
      reductions: reductions that ``decode`` accepts, ascending from 1.
    """

    height: int
    width: int
    decode: Callable[[int], RgbImage]
    reductions: tuple[int, ...] = (1,)

    def region(self, box: Box, height: int, width: int) -> Region:
        """Return the pixels of ``box`` for a resize to (height, width).

        They are decoded at the largest reduction that leaves SPARE pixels for each pixel of the result.
        ``box`` then moves so that its top and left edges are multiples of the reduction, by at most a quarter
        of a pixel of the result. Its size does not change.
        """
        room = min(box.height // height, box.width // width)
        reduction = max(r for r in self.reductions if r == 1 or r * SPARE <= room)
        pixels = self.decode(reduction)
        top, left = round(box.top / reduction), round(box.left / reduction)
        part = pixels[top : top - (-box.height // reduction), left : left - (-box.width // reduction)]
        extent = (box.height / reduction, box.width / reduction) if reduction > 1 else None
        return Region(part, extent)


def as_lazy_image(image: LazyImage | RgbImage) -> LazyImage:
    """Return ``image``, wrapped if it is pixels. Raises ``UsageError`` if they are not uint8 (H, W, 3)."""
    if isinstance(image, LazyImage):
        return image
    dtype, shape = getattr(image, "dtype", None), getattr(image, "shape", ())
    if not isinstance(image, np.ndarray) or dtype != np.uint8 or shape[2:] != (3,):
        got = type(image).__name__ if dtype is None else f"{dtype} {tuple(shape)}"
        raise UsageError(
            f"an image must be a NumPy array of uint8, (height, width, 3), but is {got}. Scale its values to "
            "0..255, round them and take .astype(np.uint8); repeat grey for three channels."
        )
    return LazyImage(image.shape[0], image.shape[1], lambda reduction: image)
