"""Images that Pillow decodes: all but most JPEGs. What the pixels of a TIFF are, its tags say (TIFF 6.0)."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.formats import NOT_READ, READ, TIFF, described, format_of, way_out

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

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS = 256, 257, 258, 259, 262
_FILL_ORDER, _SAMPLES, _STORED_BYTES, _COLOUR_MAP, _SAMPLE_FORMAT = 266, 277, 279, 320, 339
_INVERTED, _YCBCR = 0, 6
_COLOUR_NAMES = {
    _INVERTED: ("white-is-zero grey", 1),
    1: ("grey", 1),
    2: ("RGB", 3),
    3: ("palette", 1),
    5: ("CMYK", 4),
    _YCBCR: ("YCbCr", 3),
}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_SAMPLE_FORMATS = {_UNSIGNED: "", _SIGNED: "signed ", _FLOAT: "floating-point "}
_UNKNOWN_RANGE, _NOT_READ = "unknown range", "format not read"
_TIFF_FIX = "save it as 8-bit grey or RGB"

_Tags = Mapping[int, Any]


def decode_with_pillow(data: bytes | memoryview, name: str) -> npt.NDArray[np.uint8]:
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
        return BadImage(name, f"it is {kind}, which is not read; {way_out(kind)}", _NOT_READ)
    if error is None or kind not in READ:
        what = "it is no image of a known format"
        return BadImage(name, described(what, data), "not an image")
    for limit, text in _LIMITS.items():
        if limit in said:
            reason = f"{text} ({limit}); save it again without its metadata"
            return BadImage(name, reason, "over a limit")
    if kind == TIFF:
        with contextlib.suppress(Exception):  # its tags are damaged
            refused = _tiff_refusal(_read_tags(data), said)
            if refused is not None:
                return BadImage(name, *refused)
    return BadImage(name, described(f"Pillow says: {said}", data))


def _to_rgb(image: ImageFile.ImageFile, name: str) -> npt.NDArray[np.uint8]:
    """Convert any Pillow mode whose range of values is known to uint8 (H, W, 3). Raises ``BadImage``."""
    from PIL import ImagePalette
    from PIL.TiffImagePlugin import TiffImageFile

    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    refused = _tiff_refusal(tags) if tags else None
    if refused is not None:
        raise BadImage(name, *refused)
    if image.mode == "F":
        raise BadImage(name, "32-bit floating-point grey has no defined range", _UNKNOWN_RANGE)
    if image.mode.startswith("I"):
        # convert("RGB") would clip deep grey at 255, turning nearly all of it white.
        deep = np.asarray(image).astype(np.int64) >> (_bits_of(tags) if tags else 16) - 8
        grey = deep.clip(0, 255).astype(np.uint8)
        if tags and _is_inverted(tags):
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA") and max(tags.get(_COLOUR_MAP, (256,))) < 256:
        # Colours go to 255 instead of 65,535, as some programs write and libtiff allows.
        image.palette = ImagePalette.raw("RGB;L", tags[_COLOUR_MAP])
    # A palette with transparency warns on the direct way to RGB, and premultiplied grey has none.
    direct = {"P": "RGBA", "La": "LA"}.get(image.mode)
    known = image.convert(direct) if direct else image
    return np.array(known.convert("RGB"), dtype=np.uint8)


def _read_tags(data: bytes | memoryview) -> _Tags:
    """Return the tags of the first image of a TIFF."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file = io.BytesIO(data)
    tags = ImageFileDirectory_v2(file.read(16 if 43 in data[2:4] else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _tiff_refusal(tags: _Tags, said: str = "") -> tuple[str, str] | None:
    """Return why a TIFF is not read, and of which kind that is; ``None`` if it is.

    ``said``: what Pillow says of it, if it refuses it.
    """
    from PIL.TiffImagePlugin import COMPRESSION_INFO

    compression = tags.get(_COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        return f"TIFFs of compression {compression} are not read; {_TIFF_FIX}", _NOT_READ
    if tags.get(_SAMPLE_FORMAT, (1,))[0] in (_SIGNED, _FLOAT) or _bits_of(tags) >= 32:
        return f"{_tiff_pixels(tags)} has no defined range; {_TIFF_FIX}", _UNKNOWN_RANGE
    if re.search("pixel mode|raw mode|samples per pixel", said):
        return f"a TIFF of {_tiff_pixels(tags)} is not read; {_TIFF_FIX}", _NOT_READ
    # Pillow would take it for one value of each colour per pixel.
    stored = sum(tags.get(_STORED_BYTES, ()))
    whole = 3 * tags.get(_WIDTH, 0) * tags.get(_HEIGHT, 0)
    if tags.get(_COLOURS) == _YCBCR and compression == 1 and stored < whole:
        return f"a TIFF of subsampled {_tiff_pixels(tags)} is not read; {_TIFF_FIX}", _NOT_READ
    return None


def _tiff_pixels(tags: _Tags) -> str:
    """Return depth, format and colours, such as ``16-bit signed grey``."""
    kind = _SAMPLE_FORMATS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "undefined ")
    number = tags.get(_COLOURS, _INVERTED)
    colours, channels = _COLOUR_NAMES.get(number, (f"photometric {number}", tags.get(_SAMPLES, 1)))
    more = tags.get(_SAMPLES, 1) - channels
    extra = f" with {more} more channel{'s' if more > 1 else ''}" if more > 0 else ""
    order = " in reversed order of bits" if tags.get(_FILL_ORDER, 1) != 1 else ""
    return f"{_bits_of(tags)}-bit {kind}{colours}{extra}{order}"


def _bits_of(tags: _Tags) -> int:
    return int(tags.get(_BITS, (1,))[0])


def _is_inverted(tags: _Tags) -> bool:
    """Return whether 0 is white, as Pillow takes it to be where the file does not say."""
    return bool(tags.get(_COLOURS, _INVERTED) == _INVERTED)
