"""What loaders read: one split of a data set, whether it is a folder of files or packed in shards."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class Encoded(NamedTuple):
    """A sample as it is stored.

    Attributes:
      data: an image file's bytes or, with ``shape``, uint8 pixels in (H, W, 3) order, RGB.
      shape: (height, width) of ``data`` if it is pixels, ``None`` if it is an encoded image.
    """

    data: bytes | memoryview
    shape: tuple[int, int] | None = None


class Dataset(Protocol):
    """One split of a data set. Safe to read from several threads."""

    @property
    def root(self) -> Path:
        """The data set's folder, the parent of the split."""

    @property
    def split(self) -> str:
        """``"train"`` or ``"val"``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (len(self),), read-only."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of a sample for messages: its path, or its shard and original path."""

    def read(self, index: int) -> Encoded:
        """Return a sample. Raises ``UserError`` if it cannot be read or is not what was written."""


STORED = np.dtype(
    [
        ("path", "<u8"),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("descriptor", "<i4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("seed", "<u4"),
        ("checksum", "<u4"),
        ("unused", "<u4"),
    ]
)
"""Location of one sample; the structure ``Stored`` of ``native/kernels/stored.hpp``.

Either ``path`` is the address of a file's name that ends with a zero byte, or the sample is the ``size``
bytes from ``offset`` of the open file ``descriptor``, and their CRC-32, continued from ``seed``, is
``checksum``.
``height`` and ``width`` are those of a record of pixels, and 0 for an encoded image.
"""

Stored = npt.NDArray[np.void]


@runtime_checkable
class Located(Protocol):
    """Data sets that know the locations of their samples, so that the native reader can read them."""

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        """Return STORED (N,) of these samples, valid within the context."""


@contextmanager
def stored_files(names: list[bytes]) -> Iterator[Stored]:
    """Return STORED (N,) of whole files, valid within the context."""
    # Keeps the bytes alive; each element is the address of one path.
    addresses = (ctypes.c_char_p * len(names))(*names)
    stored = np.zeros(len(names), dtype=STORED)
    stored["path"] = np.frombuffer(memoryview(addresses), dtype="<u8", count=len(names))
    yield stored
    del addresses
