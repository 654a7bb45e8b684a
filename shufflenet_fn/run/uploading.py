"""Batches to the device without waiting for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.training.step import Examples

_SLOTS = 3
"""Batches that may be on their way at once: one more than steps that the host runs ahead (READ_BACK)."""


class Uploader:
    """Copies batches to ``device`` from page-locked memory that it keeps.

    From ordinary memory a device cannot copy by itself: the host would wait for all that is queued before
    the copy, a whole step. Memory and events are kept and not freed, because torch_npu aborts the process
    where it frees them after a failed collective, and the failure would never be told.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots: list[dict[str, Any]] = [{} for _ in range(_SLOTS)]
        self._turn = 0

    def __call__(self, images: Tensor, labels: Tensor) -> Examples:
        """The batch on the device; on the CPU it is where it was."""
        if self._device.type == "cpu":
            return Examples(images, labels)
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % _SLOTS
        if "event" in slot:
            slot["event"].synchronize()  # three batches ago: long done
        # As it lies, in one piece: torch_npu would gather another order in ordinary memory first.
        nhwc = images.is_contiguous(memory_format=torch.channels_last)
        packed = images.permute(0, 2, 3, 1) if nhwc else images
        sent = self._send(slot, "images", packed), self._send(slot, "labels", labels)
        if "event" not in slot:
            slot["event"] = torch.get_device_module(self._device).Event()
        slot["event"].record()
        return Examples(sent[0].permute(0, 3, 1, 2) if nhwc else sent[0], sent[1])

    def _send(self, slot: dict[str, Any], name: str, tensor: Tensor) -> Tensor:
        kept = slot.get(name)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = slot[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return kept.copy_(tensor).to(self._device, non_blocking=True)
