"""Which rank hangs, from the signs of life of all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shufflenet_fn.distributed.board import Beat, Phase

START_S: Final = 1800.0
"""How long a rank may take to its first step, however short ``--hang-timeout`` is: devices compile."""

_DUMP_S: Final = 1.5
SINGLE_STATES: Final = {
    "T": "its process is stopped (as by SIGSTOP)",
    "t": "its process is stopped by a debugger",
    "D": "its process waits for a disk or a device (state D)",
}
"""Letters of /proc for a process that does nothing, and why: what it was doing does not matter then."""


def hanging_rank(
    beats: Sequence[Beat], now: float, limit_s: float, states: Sequence[str] = ()
) -> int | None:
    """The local number of the rank that holds the others up for longer than ``limit_s``, if one does.

    A rank that waits for others is to blame only if all wait. Of several the one furthest behind is, and of
    those equally far one whose process the system has stopped.

    Args:
        beats: of all ranks of this machine.
        now: the time that beats are measured by.
        limit_s: seconds without a sign of life.
        states: of their processes, a letter each, as in /proc.
    """
    running = [n for n, beat in enumerate(beats) if beat.phase is not Phase.ENDED]
    late = [n for n in running if now - beats[n].time > _limit(beats[n], limit_s)]
    to_blame = [n for n in late if beats[n].phase is not Phase.WAITING]
    if not to_blame and len(late) == len(running):
        to_blame = late

    def order(number: int) -> tuple[int, bool]:
        return beats[number].step, not (states and states[number] in SINGLE_STATES)

    return min(to_blame, key=order, default=None)


def _limit(beat: Beat, limit_s: float) -> float:
    return max(limit_s, START_S) if beat.phase is Phase.STARTING else limit_s


def process_state(pid: int) -> str:
    """The letter in ``/proc/PID/stat``; ``?`` where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def describe_hang(beat: Beat, now: float, limit_s: float, state: str) -> str:
    """What is known of a rank that hangs, for one line."""
    doing = {
        Phase.STARTING: "while starting",
        Phase.COMPUTING: "in its own work",
        Phase.WAITING: "in a collective, as every rank of this machine",
        Phase.EVALUATING: "in the evaluation",
        Phase.SAVING: "while saving",
        Phase.ENDED: "at its end",
    }[beat.phase]
    told = f"hangs {doing}: no progress for {now - beat.time:.0f} s (--hang-timeout {limit_s:g})"
    return f"{told}; {SINGLE_STATES[state]}" if state in SINGLE_STATES else told


def dump_stacks(pid: int, state: str) -> None:
    """Have a rank write the stacks of its threads into its log; gives it a moment to do so."""
    if state in ("T", "t"):
        return
    os.kill(pid, signal.SIGUSR2)
    time.sleep(_DUMP_S)
