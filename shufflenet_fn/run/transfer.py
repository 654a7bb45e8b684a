"""Copy batches to the device and metrics back to the host without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.buffers import BatchBuffers, Layout
from shufflenet_fn.training.losses import Mix
from shufflenet_fn.training.step import Examples

UNDER_WAY = 3
"""Batches that may be on their way at once: one more than steps that the host runs ahead (READ_BACK)."""


class DeviceFeed:
    """Bring the batches of a loader to ``device``, each in one copy beside the computation.

    The loader reads into ``ready()``, which is page-locked for an accelerator. From pageable memory, a copy
    would make the host wait for all work that is queued before it, a whole step. Copies are queued in a
    separate stream and run while earlier steps compute. The host waits only for the copy of three batches
    before, which is done by then.

    All memory and events live as long as this object, which should be the whole run: torch_npu aborts the
    process if it frees them after a failed collective, and the failure would not be reported.
    """

    def __init__(self, device: torch.device, layout: Layout, *, ahead: int) -> None:
        """``layout``: of a full batch. ``ahead``: batches that the loader reads ahead."""
        on_cpu = device.type == "cpu"
        held = 1 if on_cpu else UNDER_WAY
        self._buffers = BatchBuffers(ahead + held + 1, layout, page_locked=not on_cpu)
        self._copies = None if on_cpu else _Copies(device, layout)

    def ready(self) -> BatchBuffers:
        """Return the memory for a new loader, after waiting for copies from it."""
        if self._copies is not None:
            self._copies.wait()
        return self._buffers

    def __call__(self, batch: Batch) -> Examples:
        """Return the loader's next batch on the device, valid until the following call.

        What has been queued on it by then still sees it.
        """
        buffers = self._buffers
        if self._copies is None:
            while buffers.held:
                buffers.release()
            buffers.take()
            return Examples(batch.images, batch.labels, batch.mix)
        if buffers.held == UNDER_WAY:
            self._copies.wait_for_oldest()
            buffers.release()
        return self._copies.start(batch, buffers.take())


class _Slot:
    """Memory on the device, and events: the batch is there, and what uses it is done."""

    def __init__(self, device: torch.device, layout: Layout) -> None:
        module: Any = torch.get_device_module(device)
        self.memory = torch.empty(layout.nbytes, dtype=torch.uint8, device=device)
        self.copied, self.consumed = module.Event(), module.Event()


class _Copies:
    """Copies to one device, UNDER_WAY at a time at most."""

    def __init__(self, device: torch.device, layout: Layout) -> None:
        self._device, self._layout = device, layout
        self._module: Any = torch.get_device_module(device)
        self._slots = [_Slot(device, layout) for _ in range(UNDER_WAY)]
        self._started = 0
        self._stream = self._module.Stream(device)
        # The memory may be that of something whose last use is still queued.
        self._stream.wait_stream(self._module.current_stream(device))

    def wait(self) -> None:
        """Wait until no copy is under way."""
        for slot in self._slots[: self._started]:
            slot.copied.synchronize()

    def wait_for_oldest(self) -> None:
        """Wait for the copy before the last UNDER_WAY - 1 is done."""
        self._next().copied.synchronize()

    def start(self, batch: Batch, host: Tensor) -> Examples:
        """Queue the copy of ``batch``, which lies in ``host``."""
        computing = self._module.current_stream(self._device)
        if self._started:
            self._slots[(self._started - 1) % UNDER_WAY].consumed.record(computing)
        count, mix, slot = batch.labels.shape[0], batch.mix, self._next()
        if mix:
            parts = self._layout.parts(host, count)
            parts.partners.copy_(mix.partners)
            parts.weight.copy_(mix.weight)
        used = self._layout.used(count)
        with self._module.stream(self._stream):
            if self._started >= UNDER_WAY:
                self._stream.wait_event(slot.consumed)
            slot.memory[:used].copy_(host[:used], non_blocking=True)
            slot.copied.record(self._stream)
        self._started += 1
        computing.wait_event(slot.copied)
        sent = self._layout.parts(slot.memory, count)
        return Examples(sent.images, sent.labels, Mix(sent.partners, sent.weight) if mix else ())

    def _next(self) -> _Slot:
        return self._slots[self._started % UNDER_WAY]


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
        """Return the numbers. Waits for the step that computed them, but for none that was queued later."""
        if self.event is not None:
            self.event.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


class ReadBacks:
    """Send float32 values of ``device`` to the host, at most ``count`` of them under way.

    ``float(value)`` two steps later would also wait for those two steps, because a copy runs after all work
    that is queued before it. If the copy is queued immediately, it is done as soon as its own step is.
    Page-locked memory and events live as long as this object (see ``DeviceFeed``).
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
