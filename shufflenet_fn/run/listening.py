"""Signals to a rank: to stop, where no launcher handles them, and to write its stacks."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from shufflenet_fn.distributed.heartbeats import HeartbeatSlot
from shufflenet_fn.distributed.signals import StopSignals
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.stopping import at_once_text, stopping_text
from shufflenet_fn.streams import escaping

_SHOW_CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def listening(world: World, slot: HeartbeatSlot, run_dir: Path) -> Iterator[None]:
    """Handle stop signals during the body, unless the launcher does.

    In a single process the second signal ends it at once. Under torchrun a second signal is ignored:
    torchrun forwards what it receives, a terminal has sent the same already, and after 30 s torchrun kills.
    """
    if world.heartbeats is not None:
        yield
        return

    def first(number: int) -> None:
        slot.request_stop(number)
        if world.is_main:
            say(stopping_text(number))

    def again(number: int) -> None:
        if world.size == 1:
            say(at_once_text(number, run_dir))
            os._exit(128 + number)

    with StopSignals(first, again):
        yield


def say(text: str) -> None:
    """Write a line to standard error; safe in a signal handler."""
    cursor = _SHOW_CURSOR if sys.stdout and sys.stdout.isatty() else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{cursor}\n{text}\n".encode(errors=escaping()))


@contextlib.contextmanager
def stacks_on_demand(log: Path) -> Iterator[None]:
    """Write the Python stacks of all threads to ``log`` at SIGUSR2, which a launcher sends when it hangs."""
    with open(log, "a") as file:
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR2)
