"""Graceful stop of a run: stop requests, the time limit, and how a stopped run ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from shufflenet_fn.distributed.heartbeats import HeartbeatSlot, Phase
from shufflenet_fn.distributed.worker import StopSignals
from shufflenet_fn.distributed.world import World
from shufflenet_fn.streams import escaping

Timing = Callable[[], AbstractContextManager[None]]

EXIT_RESUMABLE: Final = 75
"""EX_TEMPFAIL of sysexits.h: the run was stopped and saved, and can be resumed."""

_STEPS_AHEAD: Final = 4
"""Steps from a stop request to the end: the current one, two until all ranks know, one in reserve."""

_SHOW_CURSOR: Final = "\x1b[?25h"
_REMEMBERED: Final = 50
_FIRST_SAVE_S: Final = 5.0


class Stopped(NamedTuple):
    """The outcome of a run that was asked to stop: saved after ``step`` updates, because of ``reason``."""

    step: int
    reason: str
    run_dir: Path

    def __str__(self) -> str:
        return (
            f"stopped by {self.reason} after step {self.step}, which is saved. Go on with: "
            f"shufflenet-fn train --resume {self.run_dir}"
        )


def stopping_text(number: int) -> str:
    """Return the message for signal ``number``, which asks for a stop."""
    name = signal.Signals(number).name
    return f"{name}: stopping after the steps under way, and saving. A second signal stops at once."


def at_once_text(number: int, run_dir: Path) -> str:
    """Return the message for signal ``number``, which ends a run at once."""
    hint = (
        f"Go on from the last checkpoint with: shufflenet-fn train --resume {run_dir}"
        if (run_dir / "checkpoints" / "latest.json").exists()
        else "There is no checkpoint yet to go on from."
    )
    return f"stopped at once by {signal.Signals(number).name}. {hint}"


class Stopping:
    """Tell whether this rank was asked to stop, and write its heartbeats.

    Args:
        slot: this rank's slot in the launcher's heartbeat table.
        deadline: time at which the run must be over, by ``time.monotonic``; ``None`` for no limit.
        limit: the limit as the user gave it, for messages.
    """

    def __init__(self, slot: HeartbeatSlot, *, deadline: float | None = None, limit: str = "") -> None:
        self._slot, self._deadline, self._limit = slot, deadline, limit
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._since: float | None = None
        self._begun = False
        self.save_s = _FIRST_SAVE_S

    def asked(self) -> bool:
        """Return whether a rank or launcher of this machine got a signal, or the time is nearly up."""
        return self._slot.stop_signal != 0 or self._time_is_up()

    @property
    def reason(self) -> str | None:
        """Return why this rank was asked to stop; ``None`` if another rank was."""
        if number := self._slot.stop_signal:
            return signal.Signals(number).name
        return f"--max-time {self._limit}" if self._time_is_up() else None

    @property
    def margin_s(self) -> float:
        """Return the time to reserve for the end: several of the longest recent steps, and two saves."""
        return _STEPS_AHEAD * max(self._seconds, default=0.0) + 2 * self.save_s

    def step_begins(self, done: int) -> None:
        """Note that the update after ``done`` others begins."""
        now = time.monotonic()
        if self._since is not None:
            self._seconds.append(now - self._since)
        self._since = now
        # Until one step is done this rank is starting: it may compile for long.
        self._slot.beat(done, Phase.COMPUTING if self._begun else Phase.STARTING)
        self._begun = True

    def saved(self, seconds: float) -> None:
        """Note that a checkpoint took ``seconds`` to write."""
        self.save_s = max(seconds, 0.5)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the body as waiting for other ranks, so that this rank is not reported as hanging."""
        before = self._slot.last_beat()
        if before.phase is Phase.STARTING:
            yield
            return
        self._slot.beat(before.step, Phase.WAITING)
        yield
        self._slot.beat(before.step, before.phase)

    def waiting_and(self, timing: Timing) -> Timing:
        """Return ``timing``, with its body marked as waiting for other ranks."""

        @contextmanager
        def both() -> Iterator[None]:
            with self.waiting(), timing():
                yield

        return both

    def leave(self) -> bool:
        """As ``asked``, before a batch of an evaluation."""
        self.working_on(Phase.EVALUATING)
        return self.asked()

    def working_on(self, phase: Phase) -> None:
        """A part of ``phase``, such as a batch of the evaluation, begins. No step is timed across it."""
        self._since = None
        if self._begun:
            self._slot.beat(self._slot.last_beat().step, phase)

    def _time_is_up(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline - self.margin_s


@contextmanager
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
