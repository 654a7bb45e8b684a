"""What the pixels of a TIFF are, by its tags (TIFF 6.0), and which of them are read."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS = 256, 257, 258, 259, 262
FILL_ORDER, SAMPLES, STORED_BYTES, COLOUR_MAP, SAMPLE_FORMAT = 266, 277, 279, 320, 339
UNKNOWN_RANGE, NOT_READ = "unknown range", "format not read"

_INVERTED, _YCBCR = 0, 6
_COLOURS = {
    _INVERTED: ("white-is-zero grey", 1),
    1: ("grey", 1),
    2: ("RGB", 3),
    3: ("palette", 1),
    5: ("CMYK", 4),
    _YCBCR: ("YCbCr", 3),
    8: ("L*a*b*", 3),
    9: ("L*a*b*", 3),
    32803: ("camera sensor", 1),
    34892: ("camera sensor", 3),
}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_FORMATS = {_UNSIGNED: "", _SIGNED: "signed ", _FLOAT: "floating-point "}
_FIX = "save it as 8-bit grey or RGB"

Tags = Mapping[int, Any]


def read_tags(data: bytes | memoryview) -> Tags:
    """Return the tags of the first image."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file = io.BytesIO(data)
    tags = ImageFileDirectory_v2(file.read(16 if 43 in data[2:4] else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def refusal(tags: Tags, said: str = "") -> tuple[str, str] | None:
    """Return why a TIFF is not read, and of which kind that is; ``None`` if it is.

    Args:
      tags: of the image.
      said: what Pillow says of it, if it refuses it.
    """
    from PIL.TiffImagePlugin import COMPRESSION_INFO

    compression = tags.get(COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        return f"TIFFs of compression {compression} are not read; {_FIX}", NOT_READ
    if tags.get(SAMPLE_FORMAT, (1,))[0] in (_SIGNED, _FLOAT) or bits_of(tags) >= 32:
        return f"{_pixels(tags)} has no defined range; {_FIX}", UNKNOWN_RANGE
    if re.search("pixel mode|raw mode|samples per pixel", said):
        return f"a TIFF of {_pixels(tags)} is not read; {_FIX}", NOT_READ
    # Pillow would take it for one value of each colour per pixel.
    stored = sum(tags.get(STORED_BYTES, ()))
    whole = 3 * tags.get(WIDTH, 0) * tags.get(HEIGHT, 0)
    if tags.get(COLOURS) == _YCBCR and compression == 1 and stored < whole:
        return f"a TIFF of subsampled {_pixels(tags)} is not read; {_FIX}", NOT_READ
    return None


def bits_of(tags: Tags) -> int:
    """Return the bits of a value."""
    return int(tags.get(BITS, (1,))[0])


def is_inverted(tags: Tags) -> bool:
    """Return whether 0 is white, as Pillow takes it to be where the file does not say."""
    return bool(tags.get(COLOURS, _INVERTED) == _INVERTED)


def colour_map_is_8_bit(tags: Tags) -> bool:
    """Return whether colours go to 255 instead of 65,535, as some programs write and libtiff allows."""
    return bool(max(tags.get(COLOUR_MAP, (256,))) < 256)


def _pixels(tags: Tags) -> str:
    """Return depth, format and colours, such as ``16-bit signed grey``."""
    kind = _FORMATS.get(tags.get(SAMPLE_FORMAT, (1,))[0], "undefined ")
    number = tags.get(COLOURS, _INVERTED)
    colours, channels = _COLOURS.get(number, (f"photometric {number}", 1))
    more = tags.get(SAMPLES, 1) - channels
    extra = f" with {more} more channel{'s' if more > 1 else ''}" if more > 0 else ""
    order = " in reversed order of bits" if tags.get(FILL_ORDER, 1) != 1 else ""
    return f"{bits_of(tags)}-bit {kind}{colours}{extra}{order}"
