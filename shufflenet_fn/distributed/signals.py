"""Signals with which a scheduler, a user or a terminal asks a run to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""Slurm's ``--signal=USR1@120`` sends SIGUSR1 before the time limit."""

SAME_S: Final = 1.0
"""A second signal within this many seconds counts as the first: ``timeout`` and some wrappers send each
signal twice, to the process and to its group."""


class StopSignals:
    """Calls ``first(number)`` for the first of ``STOP_SIGNALS`` and ``again(number)`` for later ones.

    A context manager that restores the previous handlers. Signals that are ignored on entry (``nohup``, a
    shell's background job) stay ignored. Outside the main thread, where Python cannot handle signals, it does
    nothing.
    """

    def __init__(self, first: Callable[[int], None], again: Callable[[int], None]) -> None:
        self._first, self._again = first, again
        self._since: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: handler
                for number in STOP_SIGNALS
                if (handler := signal.getsignal(number)) is not signal.SIG_IGN
            }
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._first(number)
        elif now - self._since >= SAME_S:
            self._again(number)


def let_through() -> None:
    """Unblock ``STOP_SIGNALS``, which the launcher blocked while it started this process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
