"""One file of a data set looked at whole: what keeps it from being used, and what is odd about it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from typing import NamedTuple

from shufflenet_fn.data.bad_images import BadImage, HugeImage, UnreadableImage
from shufflenet_fn.data.decode import decode_sample
from shufflenet_fn.data.samples import Samples
from shufflenet_fn_backends.support.errors import UserError

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_IMAGE_EXTENSIONS = {extension for known in EXTENSIONS.values() for extension in known}
_ORIENTATION = 0x0112
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND"


class Finding(NamedTuple):
    """``kind`` groups findings, ``name`` is the file or folder, ``text`` says what about it."""

    kind: str
    name: str
    text: str


class Inspected(NamedTuple):
    """``problem``: why the file cannot be used. ``digest``: 64 bits of its content, ``None`` if unread."""

    problem: Finding | None
    remarks: tuple[Finding, ...]
    digest: int | None


def inspect(samples: Samples, index: int) -> Inspected:
    """Read and decode sample ``index`` whole."""
    name = samples.name(index)
    try:
        encoded = samples.read(index)
    except UnreadableImage as error:
        cause = error.__cause__
        dangling = isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ELOOP)
        kind = "dangling link" if dangling else "unreadable"
        return Inspected(Finding(kind, name, error.reason), (), None)
    except UserError as error:
        return Inspected(Finding("damaged record", name, str(error)), (), None)
    digest = int.from_bytes(hashlib.blake2b(encoded.data, digest_size=8).digest(), "little")
    try:
        decode_sample(encoded, name=name)
    except BadImage as error:
        return Inspected(Finding(_kind(encoded.data, error), name, error.reason), (), digest)
    if encoded.shape is not None:
        return Inspected(None, (), digest)
    try:
        remarks = tuple(_remarks(encoded.data, name))
    except (
        Exception
    ) as error:  # as of any parser of Pillow; the loader does not need what it failed at
        remarks = (Finding("odd header", name, f"Pillow cannot read it: {error}"),)
    return Inspected(None, remarks, digest)


def _kind(data: bytes | memoryview, error: BadImage) -> str:
    head, tail = bytes(data[:4]), bytes(data[-64:])
    if not data:
        return "empty file"
    if isinstance(error, HugeImage):
        return "too many pixels"
    if "no image of a known format" in error.reason:
        return "not an image"
    if "no defined range" in error.reason:
        return "unknown range"
    ends = {_JPEG: _JPEG_END, _PNG: _PNG_END}
    if any(head.startswith(start) and end not in tail for start, end in ends.items()):
        return "truncated"
    return "corrupt"


def _remarks(data: bytes | memoryview, name: str) -> Iterator[Finding]:
    """What a user may not expect of an image that can be used."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        format_name = image.format or "unknown"
        if image.mode == "CMYK":
            yield Finding("CMYK", name, "converted to RGB without a colour profile")
        if image.mode in ("1", "L", "LA"):
            yield Finding("grey", name, "repeated for red, green and blue")
        if image.mode.startswith("I") or (format_name == "PNG" and data[24] == 16):
            yield Finding("16 bits", name, "the high byte is used")
        if image.mode in ("P", "PA"):
            yield Finding("palette", name, "converted to RGB")
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            yield Finding("alpha", name, "transparency is dropped")
        turn = image.getexif().get(_ORIENTATION, 1)
        if turn != 1:
            yield Finding("EXIF rotation", name, f"orientation {turn} is not applied")
        extension = os.path.splitext(name)[1].lower()
        if extension in _IMAGE_EXTENSIONS and extension not in EXTENSIONS.get(format_name, ()):
            yield Finding("wrong extension", name, f"it is a {format_name} file")
