"""Times and metrics of an epoch with the original's definition of FPS, and the times of a whole run."""

from __future__ import annotations

import math
from typing import NamedTuple

from shufflenet_fn.run.events import StepTimes

SKIPPED_STEPS = 10

VERDICT_STEPS = 50
"""Measured steps after which a run says what bounds it."""


class EpochSums(NamedTuple):
    """What an epoch has come to so far: steps, skipped ones, and sums over the others (percent)."""

    steps: int = 0
    skipped: int = 0
    loss: float = 0.0
    accuracy1: float = 0.0
    accuracy5: float = 0.0


class EpochMeter:
    """Collects the steps of one epoch.

    FPS is the original's: global batch / mean step time, waiting for data included, without the first
    10 steps of the epoch. An epoch of 10 steps or fewer skips only its first step, where the original
    prints nothing at all.

    Args:
        global_batch: images of a step.
        steps: steps to come.
        before: what the epoch had come to when this start of the run took it up. Times are not in it: they
            are of this start.
    """

    def __init__(self, global_batch: int, steps: int, before: EpochSums | None = None) -> None:
        before = before or EpochSums()
        self._global_batch = global_batch
        self._skip = SKIPPED_STEPS if steps > SKIPPED_STEPS else min(1, steps - 1)
        self._taken = 0
        self._timed = 0
        self._times = [0.0] * len(StepTimes._fields)
        self._before = before.steps
        self._sums = list(before[2:])
        self.skipped = before.skipped

    def add(self, times: StepTimes, metrics: tuple[float, float, float], skipped: bool) -> None:
        """One step: its times, its (loss, accuracy1, accuracy5), whether its update was skipped."""
        self._taken += 1
        if skipped:
            # Its loss may be infinite; one such step must not blind the mean of the epoch.
            self.skipped += 1
        else:
            self._sums = [a + b for a, b in zip(self._sums, metrics, strict=True)]
        if self._taken > self._skip:
            self._timed += 1
            self._times = [a + b for a, b in zip(self._times, times, strict=True)]

    @property
    def steps(self) -> int:
        """Steps of the epoch so far, those before this start of the run included."""
        return self._before + self._taken

    @property
    def sums(self) -> EpochSums:
        """What the epoch has come to so far."""
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
        """Mean of the measured steps; zeros before there is one."""
        return StepTimes(*(total / max(1, self._timed) for total in self._times))

    @property
    def fps(self) -> float | None:
        """Images per second over all devices; ``None`` before there is a measured step."""
        return self._global_batch / self.mean_times.total if self._timed else None


class WaitMeter:
    """The mean times of all steps of this start of a run.

    Its first 10 steps do not count: they compile, warm up, and live on what the loader has read ahead.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._times = [0.0] * len(StepTimes._fields)

    @property
    def steps(self) -> int:
        """Measured steps."""
        return max(0, self._seen - SKIPPED_STEPS)

    def add(self, times: StepTimes) -> None:
        self._seen += 1
        if self._seen > SKIPPED_STEPS:
            self._times = [a + b for a, b in zip(self._times, times, strict=True)]

    @property
    def mean_times(self) -> StepTimes:
        """Mean of the measured steps; zeros before there is one."""
        return StepTimes(*(total / max(1, self.steps) for total in self._times))
