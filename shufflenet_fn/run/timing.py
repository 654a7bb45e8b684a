"""Times and metrics of steps, epochs and runs, and the profiler behind ``--profile``."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from shufflenet_fn.io import explained
from shufflenet_fn.run.events import Reporter, StepTimes
from shufflenet_fn_backends.runtimes.base import Profiler, Runtime, Window

SKIPPED_STEPS = 10

BOTTLENECK_STEPS = 50
"""Measured steps after which a run reports its bottleneck."""


class Scores(NamedTuple):
    """Mean loss, accuracies in percent, and the number of images they are over."""

    loss: float
    accuracy1: float
    accuracy5: float
    num_images: int


class EpochSums(NamedTuple):
    """Sums of an epoch so far: steps, skipped steps, and sums over the others (percent)."""

    steps: int = 0
    skipped: int = 0
    loss: float = 0.0
    accuracy1: float = 0.0
    accuracy5: float = 0.0


class TimeMeter:
    """The mean times of steps, without the first ``skip``.

    Those compile, warm up, and use batches that were read ahead.
    """

    def __init__(self, skip: int = SKIPPED_STEPS) -> None:
        self._skip, self._seen = skip, 0
        self._times = [0.0] * len(StepTimes._fields)

    @property
    def steps(self) -> int:
        return max(0, self._seen - self._skip)

    def add(self, times: StepTimes) -> None:
        self._seen += 1
        if self._seen > self._skip:
            self._times = [a + b for a, b in zip(self._times, times, strict=True)]

    @property
    def mean_times(self) -> StepTimes:
        """Mean of the measured steps; zeros before there is one."""
        return StepTimes(*(total / max(1, self.steps) for total in self._times))


class EpochMeter:
    """Collect the steps of one epoch, of which ``steps`` are to come.

    FPS is the original's: global batch / mean step time, waiting for data included, without the first
    10 steps of the epoch. An epoch of 10 steps or fewer skips only its first step, where the original
    prints nothing at all. ``before``: sums of the epoch before this start resumed it.
    """

    def __init__(self, global_batch: int, steps: int, before: EpochSums | None = None) -> None:
        self._before = before or EpochSums()
        self._global_batch = global_batch
        self._times = TimeMeter(SKIPPED_STEPS if steps > SKIPPED_STEPS else min(1, steps - 1))
        self._sums = list(self._before[2:])
        self.steps, self.skipped = self._before[:2]
        """Steps of the epoch so far, those before this start included, and those whose update was skipped."""

    def add(self, times: StepTimes, metrics: tuple[float, float, float], skipped: bool) -> None:
        """Add a step. ``metrics``: loss, accuracy1, accuracy5."""
        self.steps += 1
        if skipped:
            # Its loss may be infinite; one such step must not blind the mean of the epoch.
            self.skipped += 1
        else:
            self._sums = [a + b for a, b in zip(self._sums, metrics, strict=True)]
        self._times.add(times)

    @property
    def sums(self) -> EpochSums:
        return EpochSums(self.steps, self.skipped, *self._sums)

    @property
    def mean_metrics(self) -> tuple[float, float, float]:
        """Mean (loss, accuracy1, accuracy5) of the steps that were not skipped; NaN if all were."""
        count = self.steps - self.skipped
        if count == 0:
            return math.nan, math.nan, math.nan
        loss, accuracy1, accuracy5 = (total / count for total in self._sums)
        return loss, accuracy1, accuracy5

    @property
    def mean_times(self) -> StepTimes:
        return self._times.mean_times

    @property
    def fps(self) -> float | None:
        """Images per second over all devices; ``None`` before there is a measured step."""
        return self._global_batch / self.mean_times.total if self._times.steps else None


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
    """Time the steps of a run on the host and, on an accelerator, by events in the device's stream.

    The host runs ahead of an accelerator, so a wait for a batch costs nothing while the device is busy. The
    device's idle time is measured by two events: the end of a step's work, and the arrival of the next batch.
    The time of the collectives is measured on the device too. Events are read after the step's metrics have
    been read back; they are complete by then, so the host does not wait.

    The events live as long as this object, for the same reason as in ``transfer.DeviceFeed``.
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
        """Begin a step, and with it the wait for its batch."""
        self._reduce = self._waited = 0.0
        self._start = time.perf_counter()

    def fed(self) -> None:
        """Mark that the batch has arrived."""
        self._fed = time.perf_counter()
        self._before, self._marks = self._marks, self._next_marks()
        if self._marks is not None:
            self._marks.fed.record()

    def uploaded(self) -> None:
        """Mark that the copy to the device is queued."""
        self._uploaded = time.perf_counter()

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Time the body as a collective."""
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
        """Time the body as waiting for the device."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def stop(self) -> TimedStep:
        """Mark that all work of the step is queued."""
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
        """Return the split of a step that the device has finished."""
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


T = TypeVar("T")


@contextmanager
def profiled(
    batches: Iterator[T], folder: str | None, steps: int, runtime: Runtime, reporter: Reporter
) -> Iterator[Iterator[T]]:
    """Yield ``batches``, of ``steps`` steps, with some of the steps recorded in ``folder`` if there is one.

    A step is what happens between one ``next`` and the following.

    Raises:
        UserError: the folder cannot be written.
    """
    if folder is None or steps == 0:
        yield batches
        return
    window = fitted(steps)
    path = Path(folder)
    with explained(f"write the profile in {path}", "Name another folder with --profile."):
        path.mkdir(parents=True, exist_ok=True)
    with _named_in_utf8(path) as named, runtime.profiler(named, "rank0", window) as profiler:
        yield _with_steps(batches, profiler)
        profiler.step()  # after the last batch nobody asks for another
    first = window.skip + window.warm_up + 1
    reporter.note(f"profile: steps {first} to {window.length} of this start are in {path}")


@contextmanager
def _named_in_utf8(path: Path) -> Iterator[Path]:
    """Yield ``path``, or a link to it if its name is not UTF-8, which profilers do not take."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "profile"
            link.symlink_to(path.absolute(), target_is_directory=True)
            yield link
    else:
        yield path


def fitted(steps: int) -> Window:
    """Return the usual window, moved forward and shortened if a run has fewer steps."""
    usual = Window()
    warm_up = min(usual.warm_up, steps - 1)
    record = min(usual.record, steps - warm_up)
    return Window(min(usual.skip, steps - warm_up - record), warm_up, record)


def _with_steps(batches: Iterator[T], profiler: Profiler) -> Iterator[T]:
    for batch in batches:
        yield batch
        profiler.step()
