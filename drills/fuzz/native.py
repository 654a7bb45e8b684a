"""Reads a damaged image file with the native reader, which must decline it or give libjpeg-turbo's pixels.

The reader decodes only what a crop needs, so it may miss damage elsewhere. The crop must then equal that of
the whole decoded file, regardless of warnings.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from drills.fuzz.images import EVAL, TRAIN, Wrong, views_of, whole_jpeg
from shufflenet_fn.data.dataset import stored_files
from shufflenet_fn.data.decode import LazyImage
from shufflenet_fn.data.native.reader import NativeReader, functions


class NativeImages:
    """One reader for all files, as a reading thread has it. Each file is written to ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "image"
        self._reader = NativeReader(functions())

    def check(self, data: bytes, number: int) -> None:
        """Read ``data`` as sample ``number``. Raises ``Wrong`` if the pixels are not the expected ones."""
        self._path.write_bytes(data)
        views = np.zeros((2, 48, 48, 3), dtype=np.uint8)
        sample, first = np.array([number]), np.array([0])
        with stored_files([bytes(self._path)]) as stored:
            trained = self._reader.train(
                stored, TRAIN, seed=0, epoch=0, indices=sample, repeats=first, out=views[:1]
            )
            done = np.concatenate([trained, self._reader.eval(stored, EVAL, out=views[1:])])
        if not done.any():
            return
        whole = readable(data)
        if whole is None:
            raise Wrong("native: pixels, but the reference has none")
        expected = views_of(whole, number, None)
        if not np.array_equal(views[done], expected[done]):
            raise Wrong("native: other pixels")


def readable(data: bytes) -> LazyImage | None:
    """Return a JPEG's rows up to the damage at which libjpeg-turbo gives up; ``None`` if there are none.

    libjpeg-turbo returns nothing for a file with such damage, but it returns the rows before it if the file
    is truncated there.
    """
    with contextlib.suppress(ValueError):
        return whole_jpeg(data, strict=False)
    best, low, high = None, data.find(b"\xff\xda"), len(data)
    while low < high - 1:
        middle = (low + high) // 2
        try:
            best, low = whole_jpeg(data[:middle] + b"\xff\xd9", strict=False), middle
        except ValueError:
            high = middle
    return best
