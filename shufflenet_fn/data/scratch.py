"""Memory that a reading thread uses again for every image."""

from __future__ import annotations

import math
import threading

import numpy as np
import numpy.typing as npt

KEPT_BYTES = 64 * 2**20
"""What is larger than this is not kept: one huge picture must not cost every thread its size for good."""


class Scratch(threading.local):
    """Buffers by what they are for, for each thread its own. They grow and do not shrink.

    A fresh buffer of an image's size comes from the system page by page, each page cleared and mapped on
    first touch, which costs a good part of what decoding into it does.
    """

    def __init__(self) -> None:
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}

    def array(self, use: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """A C-contiguous uint8 array of ``shape``, valid until the next one for the same ``use``."""
        size = math.prod(shape)
        memory = self._memory.get(use)
        if memory is None or memory.size < size:
            memory = np.empty(size, dtype=np.uint8)
            if size <= KEPT_BYTES:
                self._memory[use] = memory
        return memory[:size].reshape(shape)
