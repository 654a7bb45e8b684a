"""An image of which only the header has been read, so that its crop is known before its pixels are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.box import Box

RgbImage = npt.NDArray[np.uint8]

SPARE = 2
"""How many decoded pixels for each one of the result are enough, along each side.

Pillow's ``thumbnail`` takes the same (``reducing_gap``). With fewer the filter has too little left to do.
"""


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

    def region(self, box: Box, height: int, width: int) -> RgbImage:
        """The pixels of ``box`` for a resize to (height, width): a view of what ``decode`` gives.

        Decoded at the largest reduction that leaves SPARE pixels for each one of the result. Edges of
        ``box`` then move to the nearest multiple of the reduction, which is at most a quarter of a pixel
        of the result.
        """
        room = min(box.height // height, box.width // width)
        reduction = max(r for r in self.reductions if r == 1 or r * SPARE <= room)
        pixels = self.decode(reduction)
        top, left = round(box.top / reduction), round(box.left / reduction)
        bottom = round((box.top + box.height) / reduction)
        right = round((box.left + box.width) / reduction)
        return pixels[top:bottom, left:right]


def as_picture(image: Picture | RgbImage) -> Picture:
    """``image``, if need be as a picture that is there already."""
    if isinstance(image, Picture):
        return image
    return Picture(image.shape[0], image.shape[1], lambda reduction: image)
