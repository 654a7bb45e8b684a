"""From a stored sample to RGB pixels.

JPEGs go through simplejpeg (libjpeg-turbo, no copies, no GIL), which can decode at a half, a quarter or an
eighth of the size. ``native`` decodes a region alone, to the same pixels. What libjpeg-turbo warns about is
refused: it goes on after damage, with wrong or grey pixels. CMYK and YCCK JPEGs and every other format go to
Pillow, which is what torchvision decodes with.

As in torchvision's ``pil_loader``, EXIF orientation is ignored and an alpha channel is dropped. A format is
told by its content, not by the file's name.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.jpeg import read_jpeg_header
from shufflenet_fn.data.picture import Picture, RgbImage, as_picture
from shufflenet_fn.data.pillow import decode_with_pillow, described
from shufflenet_fn.data.samples import Encoded
from shufflenet_fn.data.scratch import Scratch

__all__ = ["RgbImage", "decode_rgb", "decode_sample", "open_picture"]

_JPEG_MAGIC = b"\xff\xd8\xff"
_REDUCTIONS = (1, 2, 4, 8)
"""Those of libjpeg-turbo's scales that have SIMD code."""


def decode_rgb(data: bytes | memoryview, *, path: str | Path) -> RgbImage:
    """Decode the bytes of an image file; ``path`` is for the message. As ``decode_sample``."""
    return decode_sample(Encoded(data), name=str(path))


def decode_sample(encoded: Encoded, *, name: str, scratch: Scratch | None = None) -> RgbImage:
    """Decode one whole sample.

    Args:
      encoded: an image file's bytes, or pixels.
      name: what a message calls it.
      scratch: this thread's memory. The result may lie in it, until the next image is decoded.

    Returns:
      uint8 (H, W, 3), RGB, C-contiguous. Pixels are a view of ``encoded``. 16-bit grey is reduced to its
      high byte.

    Raises:
      BadImage: not an image, damaged, of more than ``pillow.MAX_PIXELS`` pixels or ``jpeg.MAX_SCANS`` scans,
        or of 32-bit grey.
    """
    return open_picture(encoded, name=name, scratch=scratch).decode(1)


def open_picture(encoded: Encoded, *, name: str, scratch: Scratch | None = None) -> Picture:
    """A sample's size, and how to decode it. Args and errors as ``decode_sample``."""
    data = encoded.data
    if encoded.shape is not None:
        return as_picture(_pixels(data, encoded.shape, name))
    if data[:3] != _JPEG_MAGIC:
        return as_picture(decode_with_pillow(data, name))
    import simplejpeg

    try:
        height, width, colours, can_be_reduced = read_jpeg_header(data, name)
        if colours in ("CMYK", "YCCK"):
            # Pillow says nothing of what libjpeg-turbo warns about.
            simplejpeg.decode_jpeg(data, colorspace="CMYK")
            return as_picture(decode_with_pillow(data, name))
    except ValueError as error:
        raise _damaged(data, name, error) from error
    decode = functools.partial(_decode_jpeg, data, name, scratch, height, width)
    return Picture(height, width, decode, _REDUCTIONS if can_be_reduced else (1,))


def _decode_jpeg(
    data: bytes | memoryview,
    name: str,
    scratch: Scratch | None,
    height: int,
    width: int,
    reduction: int,
) -> RgbImage:
    import simplejpeg

    shape = (-(-height // reduction), -(-width // reduction), 3)
    buffer = (scratch or Scratch()).array("decoded", shape)
    # The smallest size that is large enough is the one wanted; without a minimum it is the full one.
    least = {"min_height": shape[0], "min_width": shape[1]} if reduction > 1 else {}
    try:
        image: RgbImage = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer, **least)
    except ValueError as error:
        raise _damaged(data, name, error) from error
    return image


def _damaged(data: bytes | memoryview, name: str, error: ValueError) -> BadImage:
    return BadImage(name, described(f"libjpeg-turbo says: {error}", data))


def _pixels(data: bytes | memoryview, shape: tuple[int, int], name: str) -> RgbImage:
    height, width = shape
    if len(data) != height * width * 3 or not data:
        raise BadImage(
            name, f"it has {len(data)} bytes, which are not {width} x {height} RGB pixels"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
