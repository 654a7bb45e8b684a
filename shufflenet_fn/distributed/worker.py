"""One rank's process: tied to its launcher, deaf to signals that are the launcher's business."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from shufflenet_fn.distributed.board import Phase, Place, open_place
from shufflenet_fn.distributed.failures import report_of
from shufflenet_fn.distributed.leaving import exit_at_once, flush_output
from shufflenet_fn.distributed.signals import StopSignals, let_through
from shufflenet_fn.distributed.world import World, world_from_environment
from shufflenet_fn_backends.support.errors import UserError

A = TypeVar("A")
R = TypeVar("R")

_PEERS_FIRST_S = 1.0


def run_worker(entry: Callable[[A, World], R], argument: A, launcher: int, board: str) -> R:
    """Run ``entry`` as the rank that elastic's environment says.

    A signal that asks for a stop is passed on to all ranks of this machine, whoever it was sent to: a
    scheduler may tell every process, a terminal does.
    """
    _die_with(launcher)
    # All that is imported by now stays to the end: the collector need not look at it again.
    gc.freeze()
    world = world_from_environment()
    if world is None:
        raise RuntimeError("torch elastic did not set RANK and WORLD_SIZE")
    world = world._replace(board=board)
    place = open_place(board, world.local_rank)
    place.sign_in()
    with StopSignals(first=place.request_stop, again=_ignore):
        let_through()
        try:
            result = entry(argument, world)
        except Exception as error:
            _end(error, place, world)
        place.beat(place.last_beat().step, Phase.ENDED)
    return result


def _end(error: Exception, place: Place, world: World) -> NoReturn:
    beat = place.last_beat()
    step = None if beat.phase is Phase.STARTING else beat.step
    place.report(report_of(error, world.rank, world.local_rank, step))
    if isinstance(error, UserError):
        exit_at_once(error.exit_code)
    # A rank whose peer died fails too, in its collective. The launcher looks ten times a second, so it
    # finds the peer first if this one waits.
    flush_output()
    time.sleep(_PEERS_FIRST_S)
    exit_at_once(1)


def _ignore(number: int) -> None:
    pass


def _die_with(launcher: int) -> None:
    """Have the kernel end this process when the launcher goes, however that happens."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != launcher:  # it went before the kernel was told
        exit_at_once(1)
