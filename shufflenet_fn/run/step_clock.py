"""Where the time of a step goes, measured without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from shufflenet_fn.run.events import StepTimes


@dataclass
class _Marks:
    """Events in the device's stream of one step: its batch is there, its work is done, its collectives."""

    fed: Any
    done: Any
    collectives: list[tuple[Any, Any]] = field(default_factory=list)
    used: int = 0
    """How many of ``collectives`` this step has recorded."""


class TimedStep(NamedTuple):
    """A step whose host times are known and whose device may still be at work. See ``StepClock.times``."""

    total: float
    data: float
    upload: float
    reduce: float
    device: float
    marks: _Marks | None
    before: _Marks | None


class StepClock:
    """Times the steps of a run on the host and, on an accelerator, by events in the device's stream.

    The host runs ahead of an accelerator, so its waiting for a batch costs nothing as long as the device
    is at work. What it cost is read off two events: from the end of a step's work to the moment when the
    next batch was there, the device had nothing to do. The time of the collectives is the device's as well.
    Events are read when the step's numbers have been read back, when they are long past, so nobody waits.

    They are kept as long as this is, for the reason that ``uploading.Feed`` has.
    """

    def __init__(self, device: torch.device, under_way: int) -> None:
        """``under_way``: steps between the last one and the one whose ``times`` are asked for, at most."""
        self._device = device
        # The step before the oldest is needed too: its end is where that one's wait begins.
        self._slots: list[_Marks | None] = [None] * (under_way + 2)
        self._turn = 0
        self._marks: _Marks | None = None
        self._before: _Marks | None = None
        self._start = self._fed = self._uploaded = 0.0
        self._reduce = self._waited = 0.0

    def start(self) -> None:
        """The step begins, and with it the wait for its batch."""
        self._reduce = self._waited = 0.0
        self._start = time.perf_counter()

    def fed(self) -> None:
        """The batch is there."""
        self._fed = time.perf_counter()
        self._before, self._marks = self._marks, self._next_marks()
        if self._marks is not None:
            self._marks.fed.record()

    def uploaded(self) -> None:
        """The batch is on its way to the device."""
        self._uploaded = time.perf_counter()

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Around a collective."""
        start, marks = time.perf_counter(), self._marks
        if marks is None:
            yield
        else:
            if marks.used == len(marks.collectives):
                marks.collectives.append((self._event(), self._event()))
            begin, end = marks.collectives[marks.used]
            marks.used += 1
            begin.record()
            yield
            end.record()
        self._reduce += time.perf_counter() - start

    @contextmanager
    def waiting_for_device(self) -> Iterator[None]:
        """Around what returns only when the device has come that far."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def stop(self) -> TimedStep:
        """All work of the step is queued."""
        if self._marks is not None:
            self._marks.done.record()
        return TimedStep(
            total=time.perf_counter() - self._start,
            data=self._fed - self._start,
            upload=self._uploaded - self._fed,
            reduce=self._reduce,
            device=self._waited,
            marks=self._marks,
            before=self._before,
        )

    def times(self, step: TimedStep) -> StepTimes:
        """The split of a step that the device has finished."""
        data, reduce = step.data, step.reduce
        if step.marks is not None:
            reduce = sum(map(_seconds, step.marks.collectives[: step.marks.used]))
            if step.before is not None:
                # Both clocks run apart: never more than the host waited, never less than nothing.
                data = min(data, max(0.0, _seconds((step.before.done, step.marks.fed))))
        return StepTimes(
            total=step.total,
            data=data,
            upload=step.upload,
            compute=max(0.0, step.total - data - step.upload - reduce),
            reduce=reduce,
            hidden=step.data - data,
            device=step.device,
        )

    def _next_marks(self) -> _Marks | None:
        if self._device.type == "cpu":
            return None
        marks = self._slots[self._turn]
        if marks is None:
            marks = self._slots[self._turn] = _Marks(self._event(), self._event())
        self._turn = (self._turn + 1) % len(self._slots)
        marks.used = 0
        return marks

    def _event(self) -> Any:
        return torch.get_device_module(self._device).Event(enable_timing=True)


def _seconds(pair: tuple[Any, Any]) -> float:
    begin, end = pair
    return float(begin.elapsed_time(end)) / 1000
