"""Memory that batches are read into: fresh for each batch, or a ring of buffers that is reused.

Labels and images of a batch are contiguous, so that one copy transfers both to a device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

_LABEL, _ALIGNMENT = 8, 512
"""Bytes of an int64, and the alignment of the images that a device's kernels want."""


class Parts(NamedTuple):
    """Views of a batch's memory.

    Attributes:
      images: uint8 (N, 3, H, W) in channels_last memory.
      labels: int64 (N,).
      partners: int64 (N,), labels of the images that were mixed in.
      weight: float32, 0-dim, of the first labels of mixed images.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    weight: Tensor


class Layout(NamedTuple):
    """Layout of a batch in a flat uint8 tensor: labels first, so that a batch of fewer images is a prefix.

    Attributes:
      capacity: maximum number of images.
      size: their side in pixels.
    """

    capacity: int
    size: int

    @property
    def nbytes(self) -> int:
        """Number of bytes of a full batch."""
        return self.used(self.capacity)

    def used(self, count: int) -> int:
        """Return the number of bytes of a batch of ``count`` images."""
        return self._images_at + count * self.size * self.size * 3

    def parts(self, memory: Tensor, count: int) -> Parts:
        """Return the views for ``count`` images, on the device of ``memory``."""
        labels = memory[: 2 * _LABEL * self.capacity].view(torch.int64).view(2, self.capacity)
        weight_at = 2 * _LABEL * self.capacity
        images = memory[self._images_at : self.used(count)]
        return Parts(
            images.view(count, self.size, self.size, 3).permute(0, 3, 1, 2),
            labels[0, :count],
            labels[1, :count],
            memory[weight_at : weight_at + 4].view(torch.float32)[0],
        )

    @property
    def _images_at(self) -> int:
        head = 2 * _LABEL * self.capacity + _LABEL
        return -(-head // _ALIGNMENT) * _ALIGNMENT


_LOOK_S = 0.1
"""Seconds after which a thread that waits for memory checks whether its loader was closed."""


class Stopped(Exception):
    """The loader was closed while this batch was being read."""


class FreshMemory:
    """New memory for each batch, valid for as long as it is referenced."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def writing(self, number: int, stopped: Callable[[], bool]) -> AbstractContextManager[Tensor]:
        """As ``BatchBuffers``; never waits."""
        return nullcontext(torch.empty(self.layout.nbytes, dtype=torch.uint8))


class BatchBuffers:
    """A ring of memory for the batches of one loader at a time.

    Batch k lies in slot k modulo their number. It is written once the previous batch of that slot has been
    released, so a consumer must ``take`` and ``release`` each batch, in order, or the loader waits forever.
    There must be more slots than batches that are held at a time.
    """

    def __init__(self, slots: int, layout: Layout, *, page_locked: bool) -> None:
        """Args:
        slots: number of batches in the ring, at least 2: one to read and one to fill.
        layout: layout of each batch.
        page_locked: whether a device can copy from the memory asynchronously.
        """
        self.layout = layout
        self._memory = [
            torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=page_locked) for _ in range(slots)
        ]
        self._written = [False] * slots
        self._changed = threading.Condition()
        self._taken = self._released = 0

    @property
    def held(self) -> int:
        """Number of batches that were taken and not released."""
        return self._taken - self._released

    def start(self, first: int) -> None:
        """Begin with batch ``first``. All slots are free, except those that a closed loader still writes."""
        with self._changed:
            self._taken = self._released = first
            self._changed.notify_all()

    def take(self) -> Tensor:
        """Return the flat memory, uint8 (layout.nbytes,), of the next batch."""
        memory = self._memory[self._taken % len(self._memory)]
        self._taken += 1
        return memory

    @contextmanager
    def writing(self, number: int, stopped: Callable[[], bool]) -> Iterator[Tensor]:
        """Return the memory of batch ``number``, reserved for the caller while the context lasts.

        Waits for the slot. Raises ``Stopped`` if ``stopped()`` becomes true meanwhile.
        """
        slot = number % len(self._memory)
        with self._changed:
            while not self._is_free(number, slot):
                if stopped():
                    raise Stopped
                self._changed.wait(_LOOK_S)
            self._written[slot] = True
        try:
            yield self._memory[slot]
        finally:
            with self._changed:
                self._written[slot] = False
                self._changed.notify_all()

    def release(self) -> None:
        """Free the memory of the oldest batch that was taken."""
        with self._changed:
            self._released += 1
            self._changed.notify_all()

    def _is_free(self, number: int, slot: int) -> bool:
        return number < self._released + len(self._memory) and not self._written[slot]
