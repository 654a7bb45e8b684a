"""From a stored sample to RGB pixels, decoded as far as its crop needs.

JPEGs go through simplejpeg (libjpeg-turbo, no copies, no GIL), which can decode at a half, a quarter or an
eighth of the size. ``native`` decodes a region alone, to the same pixels. A file about which libjpeg-turbo
warns is refused, because after damage it continues with wrong or grey pixels. CMYK and YCCK JPEGs and every
other format go to Pillow, which is what torchvision decodes with.

As in torchvision's ``pil_loader``, EXIF orientation is ignored and an alpha channel is dropped. The format is
detected from the content, not from the file's name.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.formats import JPEG_START, described
from shufflenet_fn.data.pillow import check_size, decode_with_pillow
from shufflenet_fn_backends.support.errors import UsageError

RgbImage = npt.NDArray[np.uint8]

SPARE = 2
"""Number of decoded pixels that suffice for each pixel of the result, along each side.

Pillow's ``thumbnail`` uses the same value (``reducing_gap``). With fewer, the filter has too little effect.
"""

KEPT_BYTES = 64 * 2**20
"""Larger buffers are not kept, so that one huge image does not hold memory in every thread permanently."""

_REDUCTIONS = (1, 2, 4, 8)
"""Those of libjpeg-turbo's scales that have SIMD code."""

MAX_SCANS = 100
"""Maximum number of scans of a JPEG that is decoded. Encoders write about ten. Each scan costs a pass over
the whole image, even if it has few bytes."""

LONGEST_SIDE = 65_500
"""Of what libjpeg-turbo reads and writes, in pixels."""

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN, _END = 0xDA, 0xD9
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = (0xC2, 0xCA)
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_CAN_BE_REDUCED = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})


class Box(NamedTuple):
    """A rectangle inside an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Scratch(threading.local):
    """Reusable buffers, one for each use and thread. They grow and do not shrink.

    The system clears and maps each page of a fresh buffer on first touch, which takes a large part of the
    time of decoding into it.
    """

    def __init__(self) -> None:
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, use: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return a C-contiguous uint8 array of ``shape``, valid until the next call for the same ``use``."""
        size = math.prod(shape)
        memory = self._memory.get(use)
        if memory is None or memory.size < size:
            memory = np.empty(size, dtype=np.uint8)
            if size <= KEPT_BYTES:
                self._memory[use] = memory
        return memory[:size].reshape(shape)


class Region(NamedTuple):
    """Pixels of a part of an image, to be resized by ``geometry.resize``.

    Attributes:
      pixels: uint8 (H, W, 3), a view.
      extent: height and width of the part, if it ends inside a pixel.
    """

    pixels: RgbImage
    extent: tuple[float, float] | None


@dataclass(frozen=True)
class LazyImage:
    """An image that is decoded on demand.

    Attributes:
      height, width: in pixels.
      decode: ``decode(reduction)`` gives the pixels, uint8 (ceil(height / reduction),
        ceil(width / reduction), 3). May raise ``BadImage``.
      reductions: reductions that ``decode`` accepts, ascending from 1.
    """

    height: int
    width: int
    decode: Callable[[int], RgbImage]
    reductions: tuple[int, ...] = (1,)

    def region(self, box: Box, height: int, width: int) -> Region:
        """Return the pixels of ``box`` for a resize to (height, width).

        They are decoded at the largest reduction that leaves SPARE pixels for each pixel of the result.
        ``box`` then moves so that its top and left edges are multiples of the reduction, by at most a quarter
        of a pixel of the result. Its size does not change.
        """
        room = min(box.height // height, box.width // width)
        reduction = max(r for r in self.reductions if r == 1 or r * SPARE <= room)
        pixels = self.decode(reduction)
        top, left = round(box.top / reduction), round(box.left / reduction)
        part = pixels[top : top - (-box.height // reduction), left : left - (-box.width // reduction)]
        extent = (box.height / reduction, box.width / reduction) if reduction > 1 else None
        return Region(part, extent)


def as_lazy_image(image: LazyImage | RgbImage) -> LazyImage:
    """Return ``image``, wrapped if it is pixels. Raises ``UsageError`` if they are not uint8 (H, W, 3)."""
    if isinstance(image, LazyImage):
        return image
    dtype, shape = getattr(image, "dtype", None), getattr(image, "shape", ())
    if not isinstance(image, np.ndarray) or dtype != np.uint8 or shape[2:] != (3,):
        got = type(image).__name__ if dtype is None else f"{dtype} {tuple(shape)}"
        raise UsageError(
            f"an image must be a NumPy array of uint8, (height, width, 3), but is {got}. Scale its values to "
            "0..255, round them and take .astype(np.uint8); repeat grey for three channels."
        )
    return LazyImage(image.shape[0], image.shape[1], lambda reduction: image)


class JpegHeader(NamedTuple):
    """Height and width in pixels, and the colour space as simplejpeg calls it.

    ``can_be_reduced``: whether it can be decoded at reduced size. A lossless JPEG cannot: libjpeg-turbo
    returns all of its pixels, but simplejpeg allocates memory only for the reduced size.
    """

    height: int
    width: int
    colours: str
    can_be_reduced: bool


class _Frame(NamedTuple):
    marker: int
    bits: int
    height: int
    width: int


def read_jpeg_header(data: bytes | memoryview, name: str) -> JpegHeader:
    """Read the header of a JPEG, checked before any memory is taken for its pixels.

    Raises:
      BadImage: of more than MAX_PIXELS pixels or MAX_SCANS scans.
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
    """Return the first frame header, which is the one that libjpeg-turbo takes."""
    for marker, at in _segments(data):
        if marker in _FRAMES:
            height, width = data[at + 3 : at + 5], data[at + 5 : at + 7]
            sides = int.from_bytes(height, "big"), int.from_bytes(width, "big")
            return _Frame(marker, int.from_bytes(data[at + 2 : at + 3], "big"), *sides)
    return None


def check_scans(data: bytes | memoryview, name: str) -> None:
    """Raise ``BadImage`` if a JPEG has more than MAX_SCANS scans.

    Reads only up to the first scan if libjpeg-turbo does the same, as in most files.
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
                raise BadImage(name, f"it has more than {MAX_SCANS} scans; save it again", "over a limit")


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Iterate over markers with a length, and where that length is. Bytes between segments are skipped."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.start() + 1], found.end()
        if marker == _END:
            return
        if marker not in _WITHOUT_LENGTH:
            yield marker, at
            at += int.from_bytes(data[at : at + 2], "big")


def decode_rgb(data: bytes | memoryview, *, path: str) -> RgbImage:
    """Decode the bytes of an image file; ``path`` is for messages. Result and errors as ``open_image``."""
    return open_image(Encoded(data), name=path).decode(1)


def open_image(encoded: Encoded, *, name: str, scratch: Scratch | None = None) -> LazyImage:
    """Read the header of a sample.

    Args:
      encoded: an image file's bytes, or pixels.
      name: name of the sample in messages.
      scratch: this thread's memory. Decoded pixels may be a view of it, valid until the next are decoded.

    Returns:
      Image whose pixels are C-contiguous. Those of ``encoded`` are a view. 16-bit grey is reduced to its
      high byte.

    Raises:
      BadImage: not an image, damaged, of more than MAX_PIXELS pixels or MAX_SCANS scans, or of 32-bit grey.
        Decoding may raise it, too.
    """
    data = encoded.data
    if encoded.shape is not None:
        return as_lazy_image(_pixels(data, encoded.shape, name))
    if data[:3] != JPEG_START:
        return as_lazy_image(decode_with_pillow(data, name))
    import simplejpeg

    try:
        height, width, colours, can_be_reduced = read_jpeg_header(data, name)
        if colours in ("CMYK", "YCCK"):
            # Pillow does not report libjpeg-turbo's warnings.
            simplejpeg.decode_jpeg(data, colorspace="CMYK")
            return as_lazy_image(decode_with_pillow(data, name))
    except ValueError as error:
        raise _refusal(data, name, error) from error
    decode = functools.partial(_decode_jpeg, data, name, scratch, height, width)
    return LazyImage(height, width, decode, _REDUCTIONS if can_be_reduced else (1,))


def _decode_jpeg(
    data: bytes | memoryview, name: str, scratch: Scratch | None, height: int, width: int, reduction: int
) -> RgbImage:
    import simplejpeg

    shape = (-(-height // reduction), -(-width // reduction), 3)
    buffer = (scratch or Scratch()).array("decoded", shape)
    # Choose the smallest size that is large enough, or the full size without a minimum.
    least = {"min_height": shape[0], "min_width": shape[1]} if reduction > 1 else {}
    try:
        image: RgbImage = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer, **least)
    except ValueError as error:
        raise _refusal(data, name, error) from error
    return image


def _refusal(data: bytes | memoryview, name: str, error: ValueError) -> BadImage:
    """Return what is wrong with a JPEG that libjpeg-turbo refuses."""
    frame = _frame_of(data)
    if frame is not None and max(frame.height, frame.width) > LONGEST_SIDE:
        size = f"{frame.width} x {frame.height} pixels"
        text = f"it is {size}; libjpeg-turbo reads at most {LONGEST_SIDE:,} a side; save it smaller"
        return BadImage(name, text, "over a limit")
    if frame is not None and frame.bits != 8:
        text = f"it is a JPEG of {frame.bits} bits, which is not read; save it with 8"
        return BadImage(name, text, "format not read")
    return BadImage(name, described(f"libjpeg-turbo says: {error}", data))


def _pixels(data: bytes | memoryview, shape: tuple[int, int], name: str) -> RgbImage:
    height, width = shape
    if len(data) != height * width * 3 or not data:
        raise BadImage(name, f"it has {len(data)} bytes, which are not {width} x {height} RGB pixels")
    return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
