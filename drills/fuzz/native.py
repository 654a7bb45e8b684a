"""A damaged image file through the native reader: left to others, or the pixels of libjpeg-turbo.

It decodes no further than a crop needs. Where damage lies outside of that it may not see it; the crop is then
what decoding the whole file gives there, with a warning or without.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from drills.fuzz.images import EVAL, TRAIN, Wrong, views_of, whole_jpeg
from shufflenet_fn.data.dataset import stored_files
from shufflenet_fn.data.lazy_image import LazyImage
from shufflenet_fn.data.native.library import functions
from shufflenet_fn.data.native.reader import NativeReader


class NativeImages:
    """The reader, used for all files as by a reading thread, each written to ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "image"
        self._reader = NativeReader(functions())

    def check(self, data: bytes, number: int) -> None:
        """Read ``data`` as the sample ``number``. Raises ``Wrong`` if other pixels come of it."""
        self._path.write_bytes(data)
        views = np.zeros((2, 48, 48, 3), dtype=np.uint8)
        sample, first = np.array([number]), np.array([0])
        with stored_files([bytes(self._path)]) as stored:
            trained, _ = self._reader.train(
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
    """A JPEG with all its rows up to damage with which libjpeg-turbo cannot go on; ``None`` if it has none.

    Of an image where it finds such damage it gives nothing, but it gives what comes before if the file is cut
    there.
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
