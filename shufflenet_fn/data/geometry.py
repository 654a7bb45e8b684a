"""Crop boxes and resizing of uint8 HWC images. Boxes are (top, left, height, width) in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.data.decode import Box, RgbImage, Scratch
from shufflenet_fn_backends.support.errors import UsageError

BOX_TRIES = 10
CROP_DRAWS = 2 * BOX_TRIES + 2
LONGEST = 50


def random_resized_crop_box(
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: npt.NDArray[np.float64],
) -> Box:
    """Return torchvision's ``RandomResizedCrop`` box: 10 attempts at an area and an aspect, then the centre.

    Args:
      height, width: of the image.
      scale: range of the crop's share of the image's area.
      ratio: range of the crop's width / height, drawn log-uniformly.
      draws: CROP_DRAWS uniform numbers in [0, 1): (area, aspect) of each try, then top and left.
    """
    for crop_width, crop_height in random_sides(height * width, scale, ratio, draws[:-2]):
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draws[-2] * (height - crop_height + 1))
            left = int(draws[-1] * (width - crop_width + 1))
            return Box(top, left, crop_height, crop_width)
    return _centre_box_within(height, width, ratio)


def random_sides(
    pixels: int, scale: tuple[float, float], ratio: tuple[float, float], draws: npt.NDArray[np.float64]
) -> Iterator[tuple[int, int]]:
    """Draw two sides of a box, one pair for each (area, aspect) in ``draws``.

    Its share of ``pixels`` is uniform in ``scale``, the ratio of its sides log-uniform in ``ratio``.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for place in range(0, len(draws), 2):
        area = pixels * (scale[0] + draws[place] * (scale[1] - scale[0]))
        aspect = math.exp(log_low + draws[place + 1] * (log_high - log_low))
        yield round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _centre_box_within(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """Return the largest centred box whose aspect lies in ``ratio``."""
    aspect = width / height
    crop_height, crop_width = height, width
    if aspect < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif aspect > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    return Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def middle(height: int, width: int) -> Box:
    """Return the box of an image, or the middle of a strip, LONGEST times as long as it is wide.

    Resized by its short side, a strip one pixel wide would take gigabytes, although only the centre is used.
    """
    part_height, part_width = min(height, LONGEST * width), min(width, LONGEST * height)
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return Box(top, left, part_height, part_width)


def resized_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side scaled to ``short_side``, rounded as torchvision."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def centre_box(height: int, width: int, size: int) -> Box:
    """Return torchvision's ``CenterCrop`` box (half to even) of a square no larger than the image."""
    return Box(round((height - size) / 2), round((width - size) / 2), size, size)


def crop(image: RgbImage, box: Box) -> RgbImage:
    """Return the part of ``image`` in a box, as a view."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def resize(
    image: RgbImage,
    height: int,
    width: int,
    *,
    extent: tuple[float, float] | None = None,
    out: RgbImage | None = None,
    scratch: Scratch | None = None,
) -> RgbImage:
    """Resample to (height, width, 3) with the antialiased bilinear filter.

    The filter is a triangle. Its half-width is one output pixel if the image shrinks and one source pixel if
    it grows, for each axis separately, as in Pillow and torchvision. An image that has the size already is
    copied.

    Args:
      image: uint8 (H, W, 3); a strided view is fine.
      height, width: of the result.
      extent: height and width, from the top left, of the part of ``image`` that is wanted, if it ends
        inside a pixel.
      out: C-contiguous uint8 (height, width, 3) to fill, or None for a new array.
      scratch: memory to reuse if ``image`` is strided or read-only.

    Raises:
      UsageError: ``out`` is something else.
    """
    if out is None:
        out = np.empty((height, width, 3), dtype=np.uint8)
    if out.dtype != np.uint8 or out.shape != (height, width, 3) or not out.flags.c_contiguous:
        raise UsageError(
            f"out must be C-contiguous uint8 {(height, width, 3)}, but is {out.dtype} {out.shape}."
        )
    if extent is None and image.shape[:2] == (height, width):
        np.copyto(out, image)
        return out
    if not (image.flags.c_contiguous and image.flags.writeable):
        # torch would copy strided pixels to fresh memory, and it warns about read-only memory.
        contiguous = (scratch or Scratch()).array("resize", image.shape)
        np.copyto(contiguous, image)
        image = contiguous
    _resample(image, out, extent)
    return out


def _resample(image: RgbImage, out: RgbImage, extent: tuple[float, float] | None) -> None:
    """Fill ``out`` from ``image``, both C-contiguous.

    ``torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)``, with the ``out``
    argument that it lacks. torch has a SIMD kernel for uint8 in channels_last memory.
    """
    height, width = out.shape[:2]
    scales = (None, None) if extent is None else (height / extent[0], width / extent[1])
    torch.ops.aten._upsample_bilinear2d_aa.out(_nchw(image), (height, width), False, *scales, out=_nchw(out))


def _nchw(image: RgbImage) -> torch.Tensor:
    """Return a (1, 3, H, W) view in channels_last memory."""
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
