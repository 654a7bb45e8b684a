"""Signals to a rank: to stop, where no launcher of ours takes them, and to show its stacks."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from shufflenet_fn.distributed.board import Place
from shufflenet_fn.distributed.signals import StopSignals
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.stopping import at_once_text, stopping_text

_SHOW_CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def listening(world: World, place: Place, run_dir: Path) -> Iterator[None]:
    """Take the signals that ask for a stop, for the length of the body, unless the launcher does.

    Of one process the second signal ends it at once. Under torchrun it is ignored: torchrun sends every
    rank what it receives, a terminal has sent the same already, and after 30 s torchrun kills.
    """
    if world.board is not None:
        yield
        return

    def first(number: int) -> None:
        place.request_stop(number)
        if world.is_main:
            say(stopping_text(number))

    def again(number: int) -> None:
        if world.size == 1:
            say(at_once_text(number, run_dir))
            os._exit(128 + number)

    with StopSignals(first, again):
        yield


def say(text: str) -> None:
    """Write a line on standard error from a signal's handler: other ways there may be in use below it."""
    cursor = _SHOW_CURSOR if sys.stdout.isatty() else ""
    os.write(2, f"{cursor}\n{text}\n".encode())


@contextlib.contextmanager
def stacks_on_demand(log: Path) -> Iterator[None]:
    """Write the Python stacks of all threads to ``log`` at every SIGUSR2, as the launcher sends a rank that
    hangs. That works whatever the rank is doing."""
    with open(log, "a") as file:
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR2)
