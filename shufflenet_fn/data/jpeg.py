"""What the header of a JPEG says, and whether its pixels can be had at a fair price."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.pillow import check_size

MAX_SCANS = 100
"""Scans of a JPEG that is decoded. Encoders write some ten; each costs a pass over the whole image, however
few bytes it has."""

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = (0xC2, 0xCA)
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


_CAN_BE_REDUCED = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})


class JpegHeader(NamedTuple):
    """Height and width in pixels, and the colour space as simplejpeg calls it.

    ``can_be_reduced``: whether it can be decoded at a part of its size. Not so a lossless JPEG: libjpeg-turbo
    gives all of its pixels, and simplejpeg makes room for the part.
    """

    height: int
    width: int
    colours: str
    can_be_reduced: bool


class _Frame(NamedTuple):
    marker: int
    height: int
    width: int


def read_jpeg_header(data: bytes | memoryview, name: str) -> JpegHeader:
    """The header of a JPEG, checked before any memory is taken for its pixels.

    Raises:
      HugeImage: of more than ``pillow.MAX_PIXELS`` pixels. BadImage: of more than MAX_SCANS scans.
      ValueError: libjpeg-turbo finds no header.
    """
    import simplejpeg

    frame = _frame_of(data)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except KeyError as error:
        # simplejpeg decodes samplings for which it has no name, such as 4:4:1. All have three colours.
        if frame is None:
            raise ValueError("no frame header") from error
        height, width, colours = frame.height, frame.width, "YCbCr"
    check_size(height, width, name)
    check_scans(data, name)
    reducible = frame is not None and frame.marker in _CAN_BE_REDUCED
    return JpegHeader(height, width, colours, reducible)


def _frame_of(data: bytes | memoryview) -> _Frame | None:
    """The first frame header, which is the one that libjpeg-turbo takes."""
    for marker, at in _segments(data):
        if marker in _FRAMES:
            height, width = data[at + 3 : at + 5], data[at + 5 : at + 7]
            return _Frame(marker, int.from_bytes(height, "big"), int.from_bytes(width, "big"))
    return None


def check_scans(data: bytes | memoryview, name: str) -> None:
    """Raise ``BadImage`` if a JPEG has more than MAX_SCANS scans.

    Looks no further than the first scan if libjpeg-turbo does not either, as in most files.
    """
    progressive, components, scans = False, b"", 0
    for marker, at in _segments(data):
        if marker in _FRAMES:
            progressive, components = marker in _PROGRESSIVE, bytes(data[at + 7 : at + 8])
        elif marker == _SCAN:
            if not progressive and bytes(data[at + 2 : at + 3]) == components:
                return
            scans += 1
            if scans > MAX_SCANS:
                raise BadImage(name, f"it has more than {MAX_SCANS} scans")


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Each marker with a length, and where that length is. What is between segments is skipped."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.start() + 1], found.end()
        if marker == _END:
            return
        if marker not in _WITHOUT_LENGTH:
            yield marker, at
            at += int.from_bytes(data[at : at + 2], "big")
