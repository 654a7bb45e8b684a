"""Numbers of a step, brought to the host without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

READ_BACK = 2
"""Steps between computing a value on the device and reading it on the host, so that neither waits."""


@dataclass(frozen=True)
class ReadBack:
    """Numbers on their way to the host: see ``ReadBacks``."""

    values: Tensor
    event: Any

    @property
    def is_here(self) -> bool:
        """Whether ``take`` would not wait: on a CPU numbers are on the host when they are computed."""
        return self.event is None

    def take(self) -> list[float]:
        """The numbers. Waits for the step that computed them, but for none that was queued after it."""
        if self.event is not None:
            self.event.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


class ReadBacks:
    """Sends float32 values of ``device`` to the host, ``count`` of them under way at most.

    ``float(value)`` two steps later would wait for those two steps as well: a copy is queued behind all that
    was queued before it. Sent at once, it is done as soon as its own step is. Page-locked memory and events
    are kept for as long as this is (see ``uploading.Feed``).
    """

    def __init__(self, device: torch.device, count: int) -> None:
        self._device = device
        self._slots: list[ReadBack | None] = [None] * count
        self._turn = 0

    def start(self, *values: Tensor) -> ReadBack:
        """Send 0-dim ``values``. What was started ``count`` calls ago must have been taken."""
        together = torch.stack(values)
        if self._device.type == "cpu":
            return ReadBack(together, None)
        slot = self._slots[self._turn]
        if slot is None:
            host = torch.empty(len(values), dtype=together.dtype, pin_memory=True)
            slot = ReadBack(host, torch.get_device_module(self._device).Event())
            self._slots[self._turn] = slot
        self._turn = (self._turn + 1) % len(self._slots)
        slot.values.copy_(together, non_blocking=True)
        slot.event.record()
        return slot
