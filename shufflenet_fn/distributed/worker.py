"""The process of one rank: how it starts under its launcher, is asked to stop, and ends."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NoReturn, TypeVar

import torch.distributed as dist

from shufflenet_fn.distributed.failures import report_of
from shufflenet_fn.distributed.heartbeats import HeartbeatSlot, Phase, open_slot
from shufflenet_fn.distributed.world import World, world_from_environment
from shufflenet_fn.streams import flush_output, lasting_streams
from shufflenet_fn_backends.support.errors import UserError
from shufflenet_fn_backends.support.limits import limit_reached

A = TypeVar("A")
R = TypeVar("R")

_PEERS_FIRST_S: Final = 1.0

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

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._first(number)
        elif now - self._since >= SAME_S:
            self._again(number)


def run_worker(
    entry: Callable[[A, World], R], argument: A, launcher: int, heartbeats: str, attempt: int
) -> R:
    """Run ``entry(argument, world)`` as the rank in elastic's environment variables.

    A signal that asks for a stop is passed on to all ranks of this machine, because a scheduler or a
    terminal may send it to any process.
    """
    _die_with(launcher)
    # Objects imported by now live until the end, so exclude them from garbage collection.
    gc.freeze()
    slot = open_slot(heartbeats, int(os.environ["LOCAL_RANK"]))
    slot.sign_in(os.getpid())
    # Elastic counts from 0 at each restart, because a restart here is another group of ranks.
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
    with lasting_streams(), StopSignals(first=slot.request_stop, again=lambda number: None):
        # The launcher blocked them while it started this process.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        try:
            world = world_from_environment()
            if world is None:
                raise RuntimeError("torch elastic did not set RANK and WORLD_SIZE")
            result = entry(argument, world._replace(heartbeats=heartbeats))
        except Exception as error:
            _end(limit_reached(error) or error, slot)
        slot.beat(slot.last_beat().step, Phase.ENDED)
    if "torch_npu" not in sys.modules:
        # After elastic has sent the result. Threads of gloo sometimes abort an ordinary exit, and the rank
        # would count as killed. CANN's libraries need the ordinary exit.
        atexit.register(exit_at_once, 0)
    return result


def _end(error: Exception, slot: HeartbeatSlot) -> NoReturn:
    beat = slot.last_beat()
    step = None if beat.phase is Phase.STARTING else beat.step
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    slot.report(report_of(error, rank, local_rank, step))
    if isinstance(error, UserError):
        exit_at_once(error.exit_code)
    # A rank whose peer died fails in its collective. Wait, so that the launcher detects the peer first.
    flush_output()
    time.sleep(_PEERS_FIRST_S)
    exit_at_once(1)


def _die_with(launcher: int) -> None:
    """Make the kernel kill this process when the launcher ends."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != launcher:  # it ended before prctl was called
        exit_at_once(1)


@contextlib.contextmanager
def leaving_groups_at_once() -> Iterator[None]:
    """End this process if the body fails inside a process group: print the error, exit with its code.

    For a rank that torchrun started. An ordinary exit destroys the group in arbitrary order while its
    threads still communicate, which sometimes aborts the process: SIGABRT in place of the exit code.
    """
    try:
        yield
    except Exception as error:
        if not dist.is_initialized():
            raise
        error = limit_reached(error) or error
        code = error.exit_code if isinstance(error, UserError) else 1
        try:
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr)
            else:
                traceback.print_exception(error)
        finally:
            exit_at_once(code)


def exit_at_once(code: int) -> NoReturn:
    """End this process without running exit handlers.

    They would wait for threads, devices and groups, and elastic and multiprocessing would write error files.
    """
    try:
        flush_output()
    finally:
        os._exit(code)
