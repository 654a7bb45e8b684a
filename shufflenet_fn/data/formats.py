"""Reading files that may be anything, and what they are, by their first bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from shufflenet_fn.data.bad_images import UnreadableImage
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision, in its order. A file that ends in one of them is listed without being opened."""

JPEG, PNG, TIFF = "a JPEG", "a PNG", "a TIFF"
JPEG_START = b"\xff\xd8\xff"
READ = {
    JPEG: (".jpg", ".jpeg"),
    PNG: (".png",),
    "a BMP": (".bmp",),
    "a PPM": (".ppm", ".pgm"),
    TIFF: (".tif", ".tiff"),
    "a WebP": (".webp",),
    "a GIF": (),
}
"""Formats that are decoded, and the extensions under which each is listed."""

NOT_READ = {
    "a HEIC": "ImageMagick, or pillow-heif for Python,",
    "an AVIF": "ImageMagick, or Pillow,",
    "a JPEG 2000": "ImageMagick, or Pillow,",
    "a JPEG XL": "ImageMagick, or djxl of libjxl,",
    "a Photoshop file": "ImageMagick, or Pillow,",
    "a camera's raw file": "darktable, or rawpy for Python,",
}
"""Image formats that are not decoded, and what converts them."""

_HEAD = 64
_PATTERNS = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        (JPEG, JPEG_START),
        (PNG, rb"\x89PNG\r\n\x1a\n"),
        ("a damaged PNG", rb"\x89PNG"),
        ("a GIF", rb"GIF8[79]a"),
        ("a BMP", rb"BM.{4}\0{4}"),
        ("a PPM", rb"P[1-6]\s"),
        ("a camera's raw file", rb"II\*\0.{4}CR|.{4}ftypcrx |FUJIFILMCCD-RAW|IIU\0|IIRO|\0MRM"),
        (TIFF, rb"II[*+]\0|MM\0[*+]"),
        ("a WebP", rb"RIFF.{4}WEBP"),
        ("an AVIF", rb".{4}ftyp(avi[fs]|mif1.{4}(.{4})*?avif)"),
        ("a HEIC", rb".{4}ftyp(he[iv][cxms]|mif[12]|msf1)"),
        ("a JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("a JPEG XL", rb"\0\0\0\x0cJXL |\xff\x0a"),
        ("a Photoshop file", rb"8BPS"),
        ("a video", rb".{4}ftyp|RIFF.{4}AVI |\x1aE\xdf\xa3"),
        ("a zip archive", rb"PK\x03\x04"),
        ("a gzip archive", rb"\x1f\x8b"),
        ("a PDF", rb"%PDF"),
        ("macOS's notes on a file", rb"\0\x05\x16\x07"),
        ("HTML or XML, such as a saved error page", rb"\s*<"),
        ("a Git LFS pointer that was never fetched", rb"version https://git-lfs"),
    )
)


LARGEST = 2**30
"""Bytes of the largest file that is read: twice those of the largest image that is decoded, uncompressed."""

_OWN_FAULT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENXIO,
    errno.EIO,
}
"""Errors of a single file. Others, such as a lost mount or no free descriptor, would affect the next file
too."""


def read_file(path: str | Path, size: int | None = None) -> bytes:
    """Read a file, or its first ``size`` bytes.

    Raises:
      UnreadableImage: the file is gone, may not be read, is no regular file or far too large to be an image.
      UserError: the system cannot read files just now.
    """
    try:
        # Non-blocking: to open a named pipe would wait for its writer forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(printable(path), "it is not a regular file")
            if status.st_size > LARGEST:
                raise UnreadableImage(
                    printable(path), f"it has {status.st_size:,} bytes, more than the limit of {LARGEST:,}"
                )
            if size is not None:
                return os.read(descriptor, size)
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _OWN_FAULT:
            if error.errno == errno.ENOENT and os.path.islink(path):
                reason = f"it is a link to {printable(os.readlink(path))}, which does not exist"
            raise UnreadableImage(printable(path), reason) from error
        raise UserError(
            f"cannot read image {printable(path)}: {reason}. Check the disk or mount and start again."
        ) from error


def format_of(data: bytes | memoryview) -> str | None:
    """Return what ``data`` is, by its first bytes, with an article; ``None`` if that is unknown."""
    head = bytes(data[:_HEAD])
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def is_image(path: str) -> bool:
    """Return whether a file is listed: its extension counts, or it is a JPEG under any name."""
    if path.lower().endswith(IMAGE_EXTENSIONS):
        return True
    with contextlib.suppress(UnreadableImage):
        return read_file(path, len(JPEG_START)) == JPEG_START
    return False


def described(what: str, data: bytes | memoryview) -> str:
    """Return ``what`` is wrong with a file, and what the file looks like."""
    if not data:
        return "the file is empty"
    kind = format_of(data) or "no known format"
    return f"{what}; the file has {len(data)} bytes and starts with {bytes(data[:12])!r} ({kind})"


def way_out(kind: str) -> str:
    """Return how an image of a format that is not read becomes one that is."""
    return f"{NOT_READ[kind]} converts it to JPEG"


def why_passed_over(path: Path) -> str:
    """Return why a file in a class folder is not listed."""
    try:
        kind = format_of(read_file(path, _HEAD))
    except UnreadableImage as error:
        return error.reason
    if kind in NOT_READ:
        return f"it is {kind}, which is not read: {way_out(kind)}"
    if kind not in READ:
        return "no image, by its name and its first bytes" + (f": it is {kind}" if kind else "")
    # Many cameras' raw files are TIFFs too, whose first image is a thumbnail.
    known = READ[kind] if kind != TIFF else ()
    return f"it is {kind}: " + (f"rename it to end in {known[0]}" if known else "convert it to PNG")
