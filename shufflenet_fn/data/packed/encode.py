"""Encoding of an image file for packing."""

from __future__ import annotations

from typing import NamedTuple

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.decode import LONGEST_SIDE, RgbImage, decode_rgb, read_jpeg_header
from shufflenet_fn.data.geometry import resize, resized_shape
from shufflenet_fn.data.packed.index import PackSettings

# Grey JPEGs decode to RGB like the others; CMYK ones need Pillow and are re-encoded.
_PLAIN_COLOURS = ("Gray", "YCbCr", "RGB")


class Record(NamedTuple):
    """An encoded image, ready to be packed.

    Attributes:
      data: a JPEG file, or uint8 RGB pixels in (H, W, 3) order.
      height, width: in pixels.
      kept: whether ``data`` is the source file, byte for byte.
    """

    data: bytes
    height: int
    width: int
    kept: bool


def encode_record(data: bytes, settings: PackSettings, *, name: str) -> Record:
    """Shrink an image to the settings' short side and encode it. The same input gives the same bytes.

    A JPEG is kept as it is if it is not larger than requested, is RGB or grey, and decodes without a warning.
    As in training, EXIF orientation is ignored.

    Args:
      data: an image file.
      settings: format, size and quality.
      name: name of the image in messages.

    Raises:
      BadImage: it cannot be decoded, or is too long for a JPEG.
    """
    if settings.format == "jpeg":
        size = _size_of_plain_jpeg(data, settings.short_side, name)
        if size is not None:
            return Record(data, *size, kept=True)
    image = _shrunk(decode_rgb(data, path=name), settings.short_side)
    height, width = image.shape[:2]
    return Record(_encoded(image, settings, name), height, width, kept=False)


def _size_of_plain_jpeg(data: bytes, short_side: int, name: str) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG that can be kept as it is, else None."""
    import simplejpeg

    try:
        header = read_jpeg_header(data, name)
        if header.colours not in _PLAIN_COLOURS or not header.can_be_reduced:
            return None
        if _too_large(header.height, header.width, short_side):
            return None
        simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return header.height, header.width


def _too_large(height: int, width: int, short_side: int) -> bool:
    return 0 < short_side < min(height, width)


def _shrunk(image: RgbImage, short_side: int) -> RgbImage:
    height, width = image.shape[:2]
    if not _too_large(height, width, short_side):
        return image
    return resize(image, *resized_shape(height, width, short_side))


def _encoded(image: RgbImage, settings: PackSettings, name: str) -> bytes:
    if settings.format == "raw":
        return image.tobytes()
    height, width = image.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        raise BadImage(
            name,
            f"it is {width} x {height} pixels; a JPEG has at most {LONGEST_SIDE} pixels a side; "
            "--format raw takes it",
        )
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(
        image, quality=settings.quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )
    return encoded
