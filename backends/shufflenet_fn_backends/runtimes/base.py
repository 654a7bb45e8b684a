"""What a kind of device has to say about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Runtime:
    """A kind of device as a value.

    Args:
        name: ``cpu``, ``cuda`` or ``npu``; the ``torch.device`` type.
        dist_backend: what ``init_process_group`` is given.
        memory_format: layout that activations and images are best kept in.
        device_count: how many devices of this kind a process can use here.
        set_device: make one the current device of this process; before any process group is made.
        synchronize: wait until all work queued on the current device is done.
        tune: set what training profits from in this process, unless the user has; says what it did.
        memory_peak: bytes, the most that tensors took so far; for the CPU the resident set of the process.
    """

    name: str
    dist_backend: str
    memory_format: torch.memory_format
    device_count: Callable[[], int]
    set_device: Callable[[int], None]
    synchronize: Callable[[], None]
    memory_peak: Callable[[], int]
    tune: Callable[[], tuple[str, ...]] = tuple

    def device(self, index: int) -> torch.device:
        """The ``torch.device`` number ``index``; the CPU has one."""
        return torch.device("cpu") if self.name == "cpu" else torch.device(self.name, index)
