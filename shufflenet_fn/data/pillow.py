"""What Pillow decodes: all that is no JPEG, and CMYK JPEGs."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from shufflenet_fn.data.bad_images import BadImage, HugeImage
from shufflenet_fn.data.picture import RgbImage

if TYPE_CHECKING:
    from PIL import ImageFile

MAX_PIXELS = 178_956_970
"""Height times width beyond which an image is not decoded: Pillow's limit against decompression bombs."""

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""Not all that Pillow knows: it would start Ghostscript for a PostScript file."""

_SIGNATURES = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"RIFF", "a WebP or other RIFF file"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
    (b"<", "HTML or XML, such as a saved error page"),
    (b"version https://git-lfs", "a Git LFS pointer that was never fetched"),
)


def decode_with_pillow(data: bytes | memoryview, name: str) -> RgbImage:
    """uint8 (H, W, 3) RGB of a whole file. Raises ``BadImage``."""
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
        raise HugeImage(name, str(error).rstrip(".")) from error
    # Pillow's parsers raise SyntaxError, struct.error, EOFError and others on damaged files;
    # whatever they raise, the cause is this file.
    except Exception as error:
        raise BadImage(name, described(str(error).rstrip("."), data)) from error


def _opened(data: bytes | memoryview, name: str) -> ImageFile.ImageFile:
    """A file of which Pillow has read the header. Raises ``BadImage`` if no format takes it.

    As ``Image.open`` does it, but without a look at the size. It warns of images that ``check_size``
    allows, and a warning cannot be silenced for one call while other threads read.
    """
    from PIL import Image

    Image.init()
    prefix = bytes(data[:16])
    for kind in _FORMATS:
        factory, accepts = Image.OPEN[kind]
        if accepts is not None and accepts(prefix) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # it is not of this format
            continue
    raise BadImage(name, described("it is no image of a known format", data))


def check_size(height: int, width: int, name: str) -> None:
    """Raise ``HugeImage`` if the image has more than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise HugeImage(
            name,
            f"it is {width} x {height} pixels, more than the limit of {MAX_PIXELS:,} pixels against "
            "decompression bombs",
        )


def described(what: str, data: bytes | memoryview) -> str:
    """``what`` is wrong with a file, and what the file looks like."""
    if not data:
        return "the file is empty"
    head = bytes(data[:32])
    kind = next((name for magic, name in _SIGNATURES if head.startswith(magic)), "no known format")
    return f"{what}; the file has {len(data)} bytes and starts with {head[:12]!r} ({kind})"


def _to_rgb(image: ImageFile.ImageFile, name: str) -> RgbImage:
    """(H, W, 3) uint8 of any Pillow mode whose range of values is known. Raises ``BadImage``."""
    if image.mode == "F":
        raise BadImage(name, "32-bit floating-point grey has no defined range")
    # Pillow has 16-bit grey as 32 bits if the file is a PNG (in its older versions) or a PPM.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise BadImage(name, "32-bit grey has no defined range")
    if image.mode.startswith("I"):
        # convert("RGB") would clip 16-bit grey at 255, turning nearly all of it white.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # A palette with transparency warns on the direct way to RGB.
    known = image.convert("RGBA") if image.mode == "P" else image
    return np.array(known.convert("RGB"), dtype=np.uint8)
