"""The split of a step. On an accelerator it is read off events, here with a clock that the test sets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shufflenet_fn.run.events import StepTimes
from shufflenet_fn.run.timing import SKIPPED_STEPS, StepClock, TimedStep, WaitMeter, _Marks

CPU = torch.device("cpu")


class At:
    """An event that the device passed at a moment, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def elapsed_time(self, end: At) -> float:
        return 1000 * (end.seconds - self.seconds)


def step(*, done_before: float, fed: float, data: float, **others: Any) -> TimedStep:
    marks = _Marks(At(fed), At(fed + 1), **others)
    before = _Marks(At(done_before - 1), At(done_before))
    return TimedStep(1.0, data, 0.125, 0.0, 0.25, marks, before)


def test_step_parts_add_up_on_cpu() -> None:
    clock = StepClock(CPU, 2)
    clock.start()
    clock.fed()
    clock.uploaded()
    with clock.collective(), clock.waiting_for_device():
        sum(range(10_000))
    times = clock.times(clock.stop())
    assert times.reduce > 0 and times.device > 0 and times.hidden == 0
    assert times.data + times.upload + times.compute + times.reduce == pytest.approx(times.total)
    clock.start()
    clock.fed()
    clock.uploaded()
    assert clock.times(clock.stop()).reduce == 0


@pytest.mark.parametrize(
    ("done_before", "lost"),
    [(4.5, 0.5), (4.8, 0.2), (5.0, 0.0), (5.3, 0.0), (3.0, 0.5)],
    ids=["idle all along", "idle at the end", "just busy", "busy", "idle before"],
)
def test_data_wait_counts_only_while_device_is_idle(done_before: float, lost: float) -> None:
    times = StepClock(CPU, 2).times(step(done_before=done_before, fed=5.0, data=0.5))
    assert times.data == pytest.approx(lost)
    assert times.data + times.hidden == pytest.approx(0.5)
    assert times.device == 0.25
    assert times.data + times.upload + times.compute + times.reduce == pytest.approx(1.0)


def test_collectives_take_the_devices_time() -> None:
    pairs: list[Any] = [(At(5.0), At(5.1)), (At(5.2), At(5.25)), (At(0.0), At(9.0))]
    times = StepClock(CPU, 2).times(
        # The third is of an earlier step, which had one more.
        step(done_before=6.0, fed=5.0, data=0.0, collectives=pairs, used=2)
    )
    assert times.reduce == pytest.approx(0.15)


def test_the_first_step_has_no_step_before_it() -> None:
    first = step(done_before=0.0, fed=5.0, data=0.5)._replace(before=None)
    assert StepClock(CPU, 2).times(first).data == 0.5


def test_first_steps_are_not_measured() -> None:
    meter, one = WaitMeter(), StepTimes(9.0, 8.0, 0.0, 1.0, 0.0)
    for _ in range(SKIPPED_STEPS):
        meter.add(one)
    assert (meter.steps, meter.mean_times.total) == (0, 0.0)
    meter.add(one._replace(total=1.0, hidden=0.5))
    meter.add(one._replace(total=3.0))
    assert meter.steps == 2
    assert meter.mean_times == one._replace(total=2.0, hidden=0.25)
