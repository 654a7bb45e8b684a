"""Numbers of a step, brought to the host without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReadBack:
    """0-dim tensors on their way to the host: see ``start``."""

    values: Tensor
    event: Any

    def take(self) -> list[float]:
        """The numbers. Waits for the step that computed them, but for none that was queued after it."""
        if self.event is not None:
            self.event.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


def start(*values: Tensor) -> ReadBack:
    """Send float32 ``values`` of one device to the host.

    ``float(value)`` two steps later would wait for those two steps as well: a copy is queued behind all that
    was queued before it. Sent now, it is done as soon as its own step is.
    """
    together = torch.stack(values)
    if together.device.type == "cpu":
        return ReadBack(together, None)
    host = torch.empty(len(values), dtype=together.dtype, pin_memory=True)
    host.copy_(together, non_blocking=True)
    event = torch.get_device_module(together.device).Event()
    event.record()
    return ReadBack(host, event)
