"""Memory that batches are read into: fresh for each, or a ring that is used again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from shufflenet_fn.data.memory import Layout
from shufflenet_fn_backends.support.errors import UsageError

_LOOK_S = 0.1
"""Seconds after which a thread that waits for memory looks whether its loader was closed."""


class Stopped(Exception):
    """The loader was closed while this batch was being read."""


class BatchMemory(Protocol):
    """Where a loader's batches are put together."""

    @property
    def layout(self) -> Layout:
        """Of each batch."""

    def start(self, first: int) -> None:
        """A loader begins, with batch ``first``."""

    def writing(self, number: int, stopped: Callable[[], bool]) -> AbstractContextManager[Tensor]:
        """Flat memory for batch ``number``, the caller's alone while the context lasts.

        Raises ``Stopped`` if ``stopped()`` becomes true before there is any.
        """


class FreshMemory:
    """New memory for each batch: it stays as it is for as long as someone holds it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def start(self, first: int) -> None:
        """Nothing to do."""

    def writing(self, number: int, stopped: Callable[[], bool]) -> AbstractContextManager[Tensor]:
        """As ``BatchMemory``; never waits."""
        return nullcontext(torch.empty(self.layout.nbytes, dtype=torch.uint8))


class BatchBuffers:
    """A ring of memory for the batches of one loader at a time.

    Batch k lies in slot k modulo their number. It is written when the batch that had the slot before has
    been released, so a consumer must ``take`` and ``release`` each batch, in order; a loader waits for ever
    for one that does not. There must be more slots than batches that are held at a time.
    """

    def __init__(self, slots: int, layout: Layout, *, page_locked: bool) -> None:
        """Args:
        slots: how many batches there is memory for, at least 2.
        layout: of a batch.
        page_locked: from such memory a device copies by itself, while the host goes on.
        """
        if slots < 2:
            raise UsageError(
                f"a ring of batches needs at least 2 slots, one to read and one to fill, got {slots}."
            )
        self.layout = layout
        self._memory = [
            torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=page_locked)
            for _ in range(slots)
        ]
        self._written = [False] * slots
        self._changed = threading.Condition()
        self._taken = self._released = 0

    @property
    def held(self) -> int:
        """Batches that were taken and not released."""
        return self._taken - self._released

    def start(self, first: int) -> None:
        """Begin with batch ``first``, all slots free but for those that a closed loader still writes."""
        with self._changed:
            self._taken = self._released = first
            self._changed.notify_all()

    def take(self) -> Tensor:
        """The flat memory, uint8 (layout.nbytes,), of the batch that the loader has given next."""
        memory = self._memory[self._taken % len(self._memory)]
        self._taken += 1
        return memory

    @contextmanager
    def writing(self, number: int, stopped: Callable[[], bool]) -> Iterator[Tensor]:
        """As ``BatchMemory``; waits for the slot."""
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
        """The oldest of the held batches is needed no longer."""
        with self._changed:
            self._released += 1
            self._changed.notify_all()

    def _is_free(self, number: int, slot: int) -> bool:
        return number < self._released + len(self._memory) and not self._written[slot]
