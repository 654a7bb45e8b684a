"""From the bytes of an image file to an RGB array.

JPEGs go through simplejpeg (libjpeg-turbo, no copies, no GIL). What it refuses goes to Pillow,
which is what torchvision decodes with: CMYK and YCCK JPEGs, JPEGs with recoverable damage (one of
ImageNet's), and every other format. A file both refuse, a truncated one included, is an error that
names it.

As in torchvision's ``pil_loader``, EXIF orientation is ignored and an alpha channel is dropped.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shufflenet_fn_backends.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

RgbImage = npt.NDArray[np.uint8]

_JPEG_MAGIC = b"\xff\xd8\xff"
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


def decode_rgb(data: bytes | memoryview, *, path: str | Path) -> RgbImage:
    """Decode one image.

    Args:
      data: the whole file.
      path: where it came from, for the error message only.

    Returns:
      uint8 array of shape (H, W, 3), RGB, C-contiguous. 16-bit grey is reduced to its high byte.

    Raises:
      UserError: empty, truncated or not an image.
    """
    data = bytes(data)
    if data.startswith(_JPEG_MAGIC):
        image = _decode_jpeg(data)
        if image is not None:
            return image
    return _decode_pillow(data, path)


def _decode_jpeg(data: bytes) -> RgbImage | None:
    """The image, or None where simplejpeg does not do or rejects this JPEG.

    Strict mode, because without it a truncated file decodes to a half-grey image without a word.
    """
    import simplejpeg

    try:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK"):
            return None
        image: RgbImage = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return image


def _decode_pillow(data: bytes, path: str | Path) -> RgbImage:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return _to_rgb(image)
    # Pillow's parsers raise SyntaxError, struct.error, EOFError and others on damaged files;
    # whatever they raise, the cause is this file.
    except Exception as error:
        raise UserError(_undecodable(data, path, error)) from error


def _to_rgb(image: Image.Image) -> RgbImage:
    """(H, W, 3) uint8 of any Pillow mode."""
    if image.mode.startswith("I"):
        # convert("RGB") would clip 16-bit grey at 255, turning nearly all of it white.
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P":
        # A palette with transparency warns on the direct way to RGB.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _undecodable(data: bytes, path: str | Path, error: Exception) -> str:
    if not data:
        return f"cannot decode image {path}: the file is empty. Copy it again or remove it."
    kind = next((name for magic, name in _SIGNATURES if data.startswith(magic)), "no known format")
    return (
        f"cannot decode image {path}: {error}. The file has {len(data)} bytes and starts with "
        f"{data[:12]!r} ({kind}). Copy it again or remove it."
    )
