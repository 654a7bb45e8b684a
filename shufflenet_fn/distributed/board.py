"""Memory that a launcher and the ranks of its machine share: the stop request, heartbeats, last words.

A rank writes its own part and reads one byte, so a step pays nothing for it: no lock, no system call. The
launcher reads at any moment, so whatever is read while a rank runs is a byte or an aligned word of eight,
each written by one store: it is found as it was or as it is, and never in between. The memory has no name
in any folder and is gone with the launcher, however that ends.
"""

from __future__ import annotations

import enum
import json
import mmap
import os
import sys
import tempfile
import time
from typing import Any, Final, NamedTuple

_HEADER: Final = 64
_PART: Final = 1 << 17
_STOP: Final = 0

# Where things are in a rank's part.
_STEP: Final = 0
_SIGN: Final = 8
_SIGNED_IN: Final = 16
_LENGTH: Final = 56
_REPORT: Final = 64

_WORD: Final = 8
_PHASE_BITS: Final = 3
_MICROSECONDS: Final = 1_000_000


class Phase(enum.IntEnum):
    """What a rank is doing. ``WAITING`` is for the others, so it is not what holds a run up."""

    STARTING = 0
    COMPUTING = 1
    WAITING = 2
    EVALUATING = 3
    SAVING = 4
    ENDED = 5


class Beat(NamedTuple):
    """The last sign of life of a rank: updates done, what came then, and when (``time.monotonic``).

    ``phase`` and ``time`` belong together; ``step`` may be that of the sign after.
    """

    step: int
    phase: Phase
    time: float


class Board:
    """The memory, as the launcher sees it; ``place(n)`` is rank ``n``'s view in the launcher's process.

    Args:
        processes: ranks on this machine.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        size = _HEADER + processes * _PART
        if sys.platform == "linux":
            self._file = os.memfd_create("shufflenet-fn-board")
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        else:
            self._file, self.path = tempfile.mkstemp(prefix="shufflenet-fn-board-")
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._words = _words_of(self._memory)
        self.clear()

    def place(self, local_rank: int) -> Place:
        """The part of one rank, without opening the memory again."""
        return Place(self._memory, self._words, local_rank)

    def clear(self) -> None:
        """As before any rank has started. A stop request stays."""
        for number in range(self.processes):
            place = self.place(number)
            place.beat(0, Phase.STARTING)
            place.report(None)
            place.sign_in(False)

    def request_stop(self, number: int) -> None:
        """Ask all ranks of this machine to stop, because signal ``number`` came."""
        self._memory[_STOP] = number

    @property
    def stop_signal(self) -> int:
        """The signal that asked for a stop; 0 for none."""
        return self._memory[_STOP]

    def all_have_signed_in(self) -> bool:
        """Whether every rank's process has begun with its own work."""
        return all(self.place(number).signed_in for number in range(self.processes))

    def beats(self) -> list[Beat]:
        return [self.place(number).last_beat() for number in range(self.processes)]

    def reports(self) -> list[dict[str, Any]]:
        """What ranks that failed have said, in no order."""
        found = [self.place(number).last_report() for number in range(self.processes)]
        return [report for report in found if report is not None]

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self._file)
        if sys.platform != "linux":
            os.unlink(self.path)


class Place:
    """One rank's part of the board. Cheap: each call is one copy of a few bytes."""

    def __init__(self, memory: mmap.mmap, words: memoryview, local_rank: int) -> None:
        self._memory, self._words = memory, words
        self._start = _HEADER + local_rank * _PART

    @property
    def stop_signal(self) -> int:
        """The signal that asked all ranks of this machine to stop; 0 for none."""
        return self._memory[_STOP]

    def request_stop(self, number: int) -> None:
        """Pass signal ``number``, which came to this rank, on to all ranks of this machine."""
        self._memory[_STOP] = number

    def sign_in(self, here: bool = True) -> None:
        """Say that this rank's process has all that its launcher gave it."""
        self._memory[self._start + _SIGNED_IN] = here

    @property
    def signed_in(self) -> bool:
        return self._memory[self._start + _SIGNED_IN] != 0

    def beat(self, step: int, phase: Phase) -> None:
        """Say that ``step`` updates are done and that ``phase`` comes now."""
        self._put(_STEP, step)
        self._put(_SIGN, int(time.monotonic() * _MICROSECONDS) << _PHASE_BITS | phase)

    def last_beat(self) -> Beat:
        sign = self._get(_SIGN)
        phase, microseconds = sign & ((1 << _PHASE_BITS) - 1), sign >> _PHASE_BITS
        return Beat(self._get(_STEP), Phase(phase), microseconds / _MICROSECONDS)

    def report(self, report: dict[str, Any] | None) -> None:
        """Leave last words; those that do not fit lose the beginning of their traceback."""
        content = b"" if report is None else _fitting(report)
        begin = self._start + _REPORT
        self._memory[begin : begin + len(content)] = content
        self._put(_LENGTH, len(content))

    def last_report(self) -> dict[str, Any] | None:
        """The last words; ``None`` as long as there are none that can be read to their end."""
        begin = self._start + _REPORT
        content = self._memory[begin : begin + self._get(_LENGTH)]
        try:
            report: dict[str, Any] = json.loads(content)
        except ValueError:  # none, or another core has seen the length before the words
            return None
        return report

    def _put(self, offset: int, value: int) -> None:
        self._words[(self._start + offset) // _WORD] = value

    def _get(self, offset: int) -> int:
        value: int = self._words[(self._start + offset) // _WORD]
        return value


def open_place(path: str | None, local_rank: int) -> Place:
    """A rank's part of its launcher's board; without a launcher of ours, of one that is its own."""
    if path is None:
        memory = mmap.mmap(-1, _HEADER + (local_rank + 1) * _PART)
    else:
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
    return Place(memory, _words_of(memory), local_rank)


def _words_of(memory: mmap.mmap) -> memoryview:
    """As words. One is stored whole, where ``struct`` would clear it first and then write it by bytes."""
    return memoryview(memory).cast("Q")


def _fitting(report: dict[str, Any]) -> bytes:
    room = _PART - _REPORT
    content = json.dumps(report).encode()
    if len(content) <= room:
        return content
    kept = {
        key: value[-(room // 32) :] if isinstance(value, str) else value
        for key, value in report.items()
    }
    return json.dumps(kept).encode()
