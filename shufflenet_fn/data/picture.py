"""An image of which only the header has been read, so that its crop is known before its pixels are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.box import Box

RgbImage = npt.NDArray[np.uint8]

SPARE = 2
"""How many decoded pixels for each one of the result are enough, along each side.

Pillow's ``thumbnail`` takes the same (``reducing_gap``). With fewer the filter has too little left to do.
"""


class Region(NamedTuple):
    """Pixels of a part of an image, to be resized (``geometry.resize``).

    Attributes:
      pixels: uint8 (H, W, 3), a view.
      extent: how much of them is the part, if it ends inside a pixel.
    """

    pixels: RgbImage
    extent: tuple[float, float] | None


@dataclass(frozen=True)
class Picture:
    """An image that is decoded on demand.

    Attributes:
      height, width: in pixels.
      decode: ``decode(reduction)`` gives the pixels, uint8 (ceil(height / reduction),
        ceil(width / reduction), 3). May raise ``BadImage``.
      reductions: what ``decode`` takes, ascending from 1.
    """

    height: int
    width: int
    decode: Callable[[int], RgbImage]
    reductions: tuple[int, ...] = (1,)

    def region(self, box: Box, height: int, width: int) -> Region:
        """The pixels of ``box`` for a resize to (height, width).

        Decoded at the largest reduction that leaves SPARE pixels for each one of the result. ``box`` then
        moves so that its top and left edge are multiples of the reduction, which is by a quarter of a
        pixel of the result at most. Its size stays what it is.
        """
        room = min(box.height // height, box.width // width)
        reduction = max(r for r in self.reductions if r == 1 or r * SPARE <= room)
        pixels = self.decode(reduction)
        top, left = round(box.top / reduction), round(box.left / reduction)
        part = pixels[
            top : top - (-box.height // reduction), left : left - (-box.width // reduction)
        ]
        extent = (box.height / reduction, box.width / reduction) if reduction > 1 else None
        return Region(part, extent)


def as_picture(image: Picture | RgbImage) -> Picture:
    """``image``, if need be as a picture that is there already."""
    if isinstance(image, Picture):
        return image
    return Picture(image.shape[0], image.shape[1], lambda reduction: image)
