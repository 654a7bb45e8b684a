"""Heartbeats of ranks, in memory shared with their launcher, and detection of the rank that hangs.

The memory also holds the stop request and the error report of each rank. A step only writes to its own slot
and reads one byte: no lock, no system call. The launcher may read at any moment, so a running rank writes
single bytes or aligned words of eight bytes, which are never read half-written. The memory is not a named
file and disappears with the launcher.
"""

from __future__ import annotations

import enum
import json
import mmap
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

# Sizes of the header, whose first byte is the stop request, and of a slot.
_HEADER: Final = 64
_SLOT: Final = 1 << 17
_STOP: Final = 0

# Offsets in a slot.
_STEP, _BEAT, _PID, _LENGTH, _REPORT = 0, 8, 16, 56, 64
_WORD: Final = 8
_PHASE_BITS: Final = 3
_MICROSECONDS: Final = 1_000_000

HANG_TIMEOUT_S: Final = 600.0
"""``--hang-timeout`` of several processes if it is not given."""

START_S: Final = 1800.0
"""How long a rank may take to its first step, however short ``--hang-timeout`` is: devices compile."""

_DUMP_S: Final = 1.5
SINGLE_STATES: Final = {
    "T": "its process is stopped (as by SIGSTOP)",
    "t": "its process is stopped by a debugger",
    "D": "its process waits for a disk or a device (state D)",
}
"""Process states in /proc in which a process makes no progress, whatever its phase."""


class Phase(enum.IntEnum):
    """What a rank is doing. A rank that is ``WAITING`` waits for other ranks."""

    STARTING = 0
    COMPUTING = 1
    WAITING = 2
    EVALUATING = 3
    SAVING = 4
    ENDED = 5


class Heartbeat(NamedTuple):
    """The last heartbeat of a rank: updates done, what it does now, and when (``time.monotonic``).

    ``phase`` and ``time`` belong together; ``step`` may already be that of the next heartbeat.
    """

    step: int
    phase: Phase
    time: float


class HeartbeatTable:
    """The heartbeats of all ranks of this machine, in the launcher."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        size = _HEADER + processes * _SLOT
        self._file = os.memfd_create("shufflenet-fn-heartbeats")
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._words = _words_of(self._memory)
        self._requested = 0
        self.clear()

    def slot(self, local_rank: int) -> HeartbeatSlot:
        """Return the slot of one rank."""
        return HeartbeatSlot(self._memory, self._words, local_rank)

    def clear(self) -> None:
        """Reset all slots. A stop request stays."""
        for number in range(self.processes):
            slot = self.slot(number)
            slot.beat(0, Phase.STARTING)
            slot.report(None)
            slot.sign_in(0)

    def request_stop(self, number: int) -> None:
        """Ask all ranks of this machine to stop because the launcher received signal ``number``."""
        self._requested = self._memory[_STOP] = number

    def restore_stop(self, number: int) -> None:
        """Set the stop request of ranks back to ``number``, unless the launcher itself has made one."""
        self._memory[_STOP] = self._requested or number

    @property
    def stop_signal(self) -> int:
        """The signal that asked for a stop; 0 for none."""
        return self._memory[_STOP]

    def pids(self) -> list[int]:
        """Return the process ID of each rank; 0 for a rank that has not signed in yet."""
        return [self.slot(number).pid for number in range(self.processes)]

    def heartbeats(self) -> list[Heartbeat]:
        """Return the last heartbeat of each rank."""
        return [self.slot(number).last_beat() for number in range(self.processes)]

    def reports(self) -> list[dict[str, Any]]:
        """Return the error reports of failed ranks, in no order."""
        found = [self.slot(number).last_report() for number in range(self.processes)]
        return [report for report in found if report is not None]

    def close(self) -> None:
        """Free the memory."""
        self._words.release()
        self._memory.close()
        os.close(self._file)


class HeartbeatSlot:
    """One rank's part of the table. Each call copies a few bytes."""

    def __init__(self, memory: mmap.mmap, words: memoryview, local_rank: int) -> None:
        self._memory, self._words = memory, words
        self._start = _HEADER + local_rank * _SLOT

    @property
    def stop_signal(self) -> int:
        """The signal that asked all ranks of this machine to stop; 0 for none."""
        return self._memory[_STOP]

    def request_stop(self, number: int) -> None:
        """Ask all ranks of this machine to stop because this rank received signal ``number``."""
        self._memory[_STOP] = number

    def sign_in(self, pid: int) -> None:
        """Record the process ID of this rank; 0 for none."""
        self._put(_PID, pid)

    @property
    def pid(self) -> int:
        return self._get(_PID)

    def beat(self, step: int, phase: Phase) -> None:
        """Record that ``step`` updates are done and that ``phase`` begins."""
        self._put(_STEP, step)
        self._put(_BEAT, int(time.monotonic() * _MICROSECONDS) << _PHASE_BITS | phase)

    def last_beat(self) -> Heartbeat:
        """Return the last heartbeat."""
        sign = self._get(_BEAT)
        phase, microseconds = sign & ((1 << _PHASE_BITS) - 1), sign >> _PHASE_BITS
        return Heartbeat(self._get(_STEP), Phase(phase), microseconds / _MICROSECONDS)

    def report(self, report: dict[str, Any] | None) -> None:
        """Store an error report. The beginning of a text that is too long is cut off."""
        content = b"" if report is None else _fitting(report)
        begin = self._start + _REPORT
        self._memory[begin : begin + len(content)] = content
        self._put(_LENGTH, len(content))

    def last_report(self) -> dict[str, Any] | None:
        """Return the error report; ``None`` if there is none or it is incomplete."""
        begin = self._start + _REPORT
        content = self._memory[begin : begin + self._get(_LENGTH)]
        try:
            report: dict[str, Any] = json.loads(content)
        except ValueError:  # none, or the length became visible before the text
            return None
        return report

    def _put(self, offset: int, value: int) -> None:
        self._words[(self._start + offset) // _WORD] = value

    def _get(self, offset: int) -> int:
        value: int = self._words[(self._start + offset) // _WORD]
        return value


def open_slot(path: str | None, local_rank: int) -> HeartbeatSlot:
    """Open a rank's slot in its launcher's table; without ``path``, in memory of its own."""
    if path is None:
        memory = mmap.mmap(-1, _HEADER + (local_rank + 1) * _SLOT)
    else:
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
    return HeartbeatSlot(memory, _words_of(memory), local_rank)


def _words_of(memory: mmap.mmap) -> memoryview:
    """View memory as words. Words are written atomically; ``struct`` would write byte by byte."""
    return memoryview(memory).cast("Q")


def _fitting(report: dict[str, Any]) -> bytes:
    room = _SLOT - _REPORT
    content = json.dumps(report).encode()
    if len(content) <= room:
        return content
    kept = {key: value[-(room // 32) :] if isinstance(value, str) else value for key, value in report.items()}
    return json.dumps(kept).encode()


def hanging_rank(beats: Sequence[Heartbeat], now: float, limit_s: float, states: Sequence[str]) -> int | None:
    """Return the local number of the rank that hangs, ``None`` if none does.

    ``beats`` are of all ranks of this machine, ``states`` of their processes (``process_state``). A rank that
    waits for others is blamed only if all wait. Of several late ranks, the one with the fewest updates is
    blamed; in a tie, one whose process is stopped.
    """
    running = [n for n, beat in enumerate(beats) if beat.phase is not Phase.ENDED]
    limits = {Phase.STARTING: max(limit_s, START_S)}
    late = [n for n in running if now - beats[n].time > limits.get(beats[n].phase, limit_s)]
    to_blame = [n for n in late if beats[n].phase is not Phase.WAITING]
    if not to_blame and len(late) == len(running):
        to_blame = late

    def order(number: int) -> tuple[int, bool]:
        return beats[number].step, states[number] not in SINGLE_STATES

    return min(to_blame, key=order, default=None)


def process_state(pid: int) -> str:
    """Return the state letter in ``/proc/PID/stat``; ``?`` where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def describe_hang(beat: Heartbeat, now: float, limit_s: float, state: str) -> str:
    """Return what is known of a rank that hangs, for one line."""
    doing = {
        Phase.STARTING: "while starting",
        Phase.COMPUTING: "in its own work",
        Phase.WAITING: "in a collective, as every rank of this machine",
        Phase.EVALUATING: "in the evaluation",
        Phase.SAVING: "while saving",
        Phase.ENDED: "at its end",
    }[beat.phase]
    text = f"hangs {doing}: no progress for {now - beat.time:.0f} s (--hang-timeout {limit_s:g})"
    return f"{text}; {SINGLE_STATES[state]}" if state in SINGLE_STATES else text


def dump_stacks(pid: int, state: str) -> None:
    """Make a rank write the stacks of its threads to its log, and give it time to do so."""
    if state in ("T", "t"):
        return
    os.kill(pid, signal.SIGUSR2)
    time.sleep(_DUMP_S)
