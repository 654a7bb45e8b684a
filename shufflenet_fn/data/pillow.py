"""Images that Pillow decodes: all but most JPEGs."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from shufflenet_fn.data import tiff
from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.formats import NOT_READ, READ, TIFF, described, format_of, way_out
from shufflenet_fn.data.lazy_image import RgbImage

if TYPE_CHECKING:
    from PIL import ImageFile

MAX_PIXELS = 178_956_970
"""Height times width beyond which an image is not decoded: Pillow's limit against decompression bombs."""

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""Not all that Pillow supports: it would start Ghostscript for a PostScript file."""

_LIMITS = {
    "MAX_TEXT_CHUNK": "a text or colour profile in it has more than the 1 MiB that Pillow reads",
    "MAX_TEXT_MEMORY": "the texts in it have more than the 64 MiB that Pillow reads",
}
"""Limits of Pillow, by their names in its messages, that a good file may exceed."""


def decode_with_pillow(data: bytes | memoryview, name: str) -> RgbImage:
    """Decode a whole file to uint8 (H, W, 3) RGB. Raises ``BadImage``."""
    from PIL import Image

    try:
        if data[:4] == b"\x89PNG":
            # Otherwise Pillow does not look at the checksums of the pixels.
            with _opened(data, name) as image:
                check_size(image.height, image.width, name)
                image.verify()
        with _opened(data, name) as image:
            check_size(image.height, image.width, name)
            return _to_rgb(image, name)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:  # of a tile or frame larger than the image
        raise BadImage(name, str(error).rstrip("."), "too many pixels") from error
    # Pillow's parsers raise SyntaxError, struct.error, EOFError and others on damaged files;
    # whatever they raise, the cause is this file.
    except Exception as error:
        raise _refusal(data, name, error) from error


def _opened(data: bytes | memoryview, name: str) -> ImageFile.ImageFile:
    """Open a file by its header. Raises ``BadImage`` if no format takes it.

    As ``Image.open``, but without its check of the size, which warns of images that ``check_size`` allows:
    a warning cannot be silenced for one call while other threads read.
    """
    from PIL import Image

    Image.init()
    prefix, refused = bytes(data[:16]), None
    for kind in _FORMATS:
        factory, accepts = Image.OPEN[kind]
        if accepts is not None and accepts(prefix) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            refused = error
    raise _refusal(data, name, refused) from refused


def check_size(height: int, width: int, name: str) -> None:
    """Raise ``BadImage`` if the image has more than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise BadImage(
            name,
            f"it is {width} x {height} pixels, more than the limit of {MAX_PIXELS:,} pixels against "
            "decompression bombs; save it smaller",
            "too many pixels",
        )


def _refusal(data: bytes | memoryview, name: str, error: Exception | None) -> BadImage:
    """Return what is wrong with a file that is no JPEG; ``error`` is of the format that took it."""
    if not data:
        return BadImage(name, described("", data), "empty file")
    kind, said = format_of(data), str(error).rstrip(".")
    if kind in NOT_READ:
        return BadImage(name, f"it is {kind}, which is not read; {way_out(kind)}", tiff.NOT_READ)
    if error is None or kind not in READ:
        what = "it is no image of a known format"
        return BadImage(name, described(what, data), "not an image")
    for limit, text in _LIMITS.items():
        if limit in said:
            reason = f"{text} ({limit}); save it again without its metadata"
            return BadImage(name, reason, "over a limit")
    if kind == TIFF:
        with contextlib.suppress(Exception):  # its tags are damaged
            refused = tiff.refusal(tiff.read_tags(data), said)
            if refused is not None:
                return BadImage(name, *refused)
    return BadImage(name, described(f"Pillow says: {said}", data))


def _to_rgb(image: ImageFile.ImageFile, name: str) -> RgbImage:
    """Convert any Pillow mode whose range of values is known to uint8 (H, W, 3). Raises ``BadImage``."""
    from PIL import ImagePalette
    from PIL.TiffImagePlugin import TiffImageFile

    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    refused = tiff.refusal(tags) if tags else None
    if refused is not None:
        raise BadImage(name, *refused)
    if image.mode == "F":
        raise BadImage(name, "32-bit floating-point grey has no defined range", tiff.UNKNOWN_RANGE)
    if image.mode.startswith("I"):
        # convert("RGB") would clip deep grey at 255, turning nearly all of it white.
        deep = np.asarray(image).astype(np.int64) >> (tiff.bits_of(tags) if tags else 16) - 8
        grey = deep.clip(0, 255).astype(np.uint8)
        if tags and tiff.is_inverted(tags):
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA") and tags and tiff.colour_map_is_8_bit(tags):
        image.palette = ImagePalette.raw("RGB;L", tags[tiff.COLOUR_MAP])
    # A palette with transparency warns on the direct way to RGB, and premultiplied grey has none.
    direct = {"P": "RGBA", "La": "LA"}.get(image.mode)
    known = image.convert(direct) if direct else image
    return np.array(known.convert("RGB"), dtype=np.uint8)
