"""Choosing the image reader of a run."""

from __future__ import annotations

from typing import NamedTuple

from shufflenet_fn.data.native.library import functions
from shufflenet_fn.data.native.reader import NativeReader
from shufflenet_fn_backends.support.errors import DeviceError


class ImageReader(NamedTuple):
    """``reader``: ``None`` reads image by image in Python. ``reason``: a line for the log."""

    reader: NativeReader | None
    reason: str


def choose_image_reader(name: str) -> ImageReader:
    """Return the reader for ``--image-reader``: auto, native or python.

    ``auto`` takes ``native`` where it can be built.

    Raises:
      DeviceError: ``native`` was asked for and cannot be had.
    """
    if name == "python":
        return ImageReader(None, "image reader python: asked for")
    try:
        reader = NativeReader(functions())
    except DeviceError as error:
        if name == "native":
            raise
        return ImageReader(None, f"image reader python: not native, {_why(error)}")
    reason = (
        "asked for" if name == "native" else "decodes only what a crop needs, without Python's lock"
    )
    return ImageReader(reader, f"image reader native: {reason}")


def _why(error: DeviceError) -> str:
    """Return the first sentence, without the compiler's output and the advice for ``native``."""
    return str(error).splitlines()[0].split(". ")[0].removesuffix(".")
