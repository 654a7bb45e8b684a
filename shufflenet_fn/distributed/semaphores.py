"""Names of multiprocessing's semaphores, taken from the system as soon as nobody needs them.

Elastic gives every rank a queue and an event, whose semaphores have names in shared memory. They are removed
when the launcher ends, or else by multiprocessing's resource tracker. If both are killed, as when a machine
runs out of memory, they would stay until the next boot. Who has opened one needs its name no longer.
"""

from __future__ import annotations

from multiprocessing import synchronize, util
from typing import Any


class NewSemaphores:
    """The semaphores that this process makes from now on.

    What removes them at the end of a process is multiprocessing's own, and is only called earlier. Where a
    version of Python has it otherwise nothing is found, and they are removed at the end.
    """

    def __init__(self) -> None:
        self._before = set(_removals())

    def forget(self) -> None:
        """Remove their names. Every process that uses one must have opened it."""
        for key, removal in _removals().items():
            if key not in self._before:
                removal()


def _removals() -> dict[Any, Any]:
    cleanup = getattr(synchronize.SemLock, "_cleanup", None)
    registry = dict(getattr(util, "_finalizer_registry", {}))
    return {
        key: removal
        for key, removal in registry.items()
        if cleanup is not None and getattr(removal, "_callback", None) == cleanup
    }
