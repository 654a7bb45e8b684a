"""Where samples lie, for a reader that fetches them itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

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
"""One sample: either ``path``, the address of a file's name that ends with a zero byte, or ``size`` bytes
from ``offset`` of the ArrayRecord file ``descriptor``, block headers not counted, whose CRC-32 going on from
``seed`` is ``checksum``. ``height`` and ``width`` are those of a record of pixels, 0 of an encoded image. A
``descriptor`` of -1 says that the place is not known. The structure ``Stored`` of
``native/kernels/stored.hpp``."""

Stored = npt.NDArray[np.void]


@runtime_checkable
class Located(Protocol):
    """Samples that tell where they lie."""

    def located(self, indices: npt.NDArray[np.int64]) -> AbstractContextManager[Stored]:
        """STORED (N,) of these samples, valid within the context; a place may not be known."""


@contextmanager
def stored_files(names: list[bytes]) -> Iterator[Stored]:
    """STORED (N,) of whole files, valid within the context."""
    import ctypes

    # Holds the bytes, and each of its elements is the address of one.
    addresses = (ctypes.c_char_p * len(names))(*names)
    stored = np.zeros(len(names), dtype=STORED)
    stored["path"] = np.frombuffer(memoryview(addresses), dtype="<u8", count=len(names))
    yield stored
    del addresses
