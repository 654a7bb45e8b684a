"""Save in the background: snapshots of a state, and a thread that writes them one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import tree_leaves, tree_unflatten

Task = Callable[[], None]

SLOTS: Final = 2
"""Snapshots that may exist at once: one being written, and one waiting."""


@dataclass
class _Slot:
    """Page-locked memory for a snapshot, kept: see ``Snapshots``."""

    hosts: list[Tensor | None] = field(default_factory=list)
    event: Any = None


class Snapshot:
    """A snapshot, as returned by ``Snapshots.take``."""

    def __init__(self, state: TrainState, slot: _Slot, slots: queue.SimpleQueue[_Slot]) -> None:
        self._state, self._slot, self._slots = state, slot, slots

    def state(self) -> TrainState:
        """Return the state on the host. Waits for its copy, not for work that was queued later."""
        if self._slot.event is not None:
            self._slot.event.synchronize()
        return self._state

    def release(self) -> None:
        """Free its memory for another snapshot."""
        self._slots.put(self._slot)


class Snapshots:
    """Take snapshots of states like ``like``.

    A state is never changed in place, so on the CPU a snapshot is the state itself. On an accelerator, the
    device copies it to page-locked memory, after the steps that are already queued and before later ones.
    This memory and its events live as long as this object, because torch_npu aborts if they are freed after a
    failed collective.
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
        """Return a snapshot of ``state``. Waits while ``SLOTS`` snapshots are not released."""
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


class Writer:
    """Run tasks in the order given, in a separate thread.

    The caller bounds the number of waiting tasks (``Snapshots`` has two slots). After a task has failed, no
    other task runs, and each later ``check``, ``submit`` and ``drain`` raises its error, so it is never lost.

    Args:
        begin: called first in the thread, for example to select its device.
    """

    def __init__(self, begin: Task = lambda: None) -> None:
        self._begin = begin
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        # A daemon: a second signal ends the process at once, whatever is being written. That is safe.
        self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Queue ``task``. Raises the error of an earlier task."""
        self.check()
        self._tasks.put(lambda: None if self._error else task())

    @property
    def error(self) -> BaseException | None:
        """The error of a failed task, if there is one."""
        return self._error

    def check(self) -> None:
        """Raise the error of a failed task."""
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait until all tasks are done. Raises the error of a failed task."""
        done = threading.Event()
        self._tasks.put(done.set)
        done.wait()
        self.check()

    def close(self, timeout_s: float | None = None) -> bool:
        """End the thread after the queued tasks. Returns False if they take longer. Raises nothing."""
        self._tasks.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # raised by the next check
            self._error = error
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as error:
                self._error = self._error or error
