"""A train state as it is now, to be looked at later and in another thread, without waiting for the device."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import tree_leaves, tree_unflatten

SLOTS: Final = 2
"""Snapshots that may exist at once: one being written, and one waiting."""


@dataclass
class _Slot:
    """Page-locked memory for a snapshot, kept: see ``Snapshots``."""

    hosts: list[Tensor | None] = field(default_factory=list)
    event: Any = None


class Snapshot:
    """See ``Snapshots.take``."""

    def __init__(self, state: TrainState, slot: _Slot, slots: queue.SimpleQueue[_Slot]) -> None:
        self._state, self._slot, self._slots = state, slot, slots

    def state(self) -> TrainState:
        """The state on the host; waits until the device has copied it, and for nothing queued later."""
        if self._slot.event is not None:
            self._slot.event.synchronize()
        return self._state

    def release(self) -> None:
        """Let its memory be used for another snapshot."""
        self._slots.put(self._slot)


class Snapshots:
    """Takes snapshots of states like ``like``.

    A state is never changed in place, so on the CPU a snapshot is the state itself. From an accelerator it
    is copied to page-locked memory by the device, behind the steps that are queued and before those to
    come. That memory and its events are kept for as long as this is: torch_npu aborts where they are
    freed after a failed collective.
    """

    def __init__(self, like: TrainState) -> None:
        leaves = tree_leaves(like)
        device = next((leaf.device for leaf in leaves if leaf.device.type != "cpu"), None)
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(SLOTS):
            slot = _Slot([_host_for(leaf) for leaf in leaves])
            if device is not None:
                slot.event = torch.get_device_module(device).Event()
            self._free.put(slot)

    def take(self, state: TrainState) -> Snapshot:
        """``state`` as it is now. Waits while ``SLOTS`` snapshots are not released."""
        slot = self._free.get()
        if slot.event is None:
            return Snapshot(state, slot, self._free)
        copies = [
            leaf if host is None else host.copy_(leaf, non_blocking=True)
            for leaf, host in zip(tree_leaves(state), slot.hosts, strict=True)
        ]
        slot.event.record()
        return Snapshot(tree_unflatten(state, copies), slot, self._free)


def _host_for(leaf: Tensor) -> Tensor | None:
    if leaf.device.type == "cpu":
        return None
    # Strides as the leaf's, so that the device copies it in one piece.
    return torch.empty_like(leaf, device="cpu", pin_memory=True)
