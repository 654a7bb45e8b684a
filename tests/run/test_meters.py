"""FPS as the original defines it, the time split, and the rule for evaluations."""

from __future__ import annotations

import json

import pytest

from shufflenet_fn.io import to_json
from shufflenet_fn.run.evaluation import evaluation_is_due
from shufflenet_fn.run.events import StepTimes
from shufflenet_fn.run.timing import EpochMeter


def times(total: float) -> StepTimes:
    return StepTimes(total, data=total / 4, upload=0.0, compute=total / 2, reduce=total / 4)


def test_first_ten_steps_do_not_count() -> None:
    meter = EpochMeter(global_batch=100, steps=12)
    for _ in range(10):
        meter.add(times(50.0), (1.0, 10.0, 20.0), skipped=False)
        assert meter.fps is None
    meter.add(times(1.0), (2.0, 10.0, 20.0), skipped=False)
    meter.add(times(3.0), (3.0, 10.0, 20.0), skipped=False)
    assert meter.fps == pytest.approx(100 / 2.0)
    assert meter.mean_times == StepTimes(2.0, 0.5, 0.0, 1.0, 0.5)
    assert meter.mean_metrics == pytest.approx(((10 * 1.0 + 2.0 + 3.0) / 12, 10.0, 20.0))


def test_a_short_epoch_skips_its_first_step_only() -> None:
    meter = EpochMeter(global_batch=10, steps=3)
    for total in (9.0, 1.0, 3.0):
        meter.add(times(total), (1.0, 0.0, 0.0), skipped=False)
    assert meter.fps == pytest.approx(5.0)
    single = EpochMeter(global_batch=10, steps=1)
    single.add(times(2.0), (1.0, 0.0, 0.0), skipped=False)
    assert single.fps == pytest.approx(5.0)


def test_a_skipped_update_does_not_blind_the_mean() -> None:
    meter = EpochMeter(global_batch=10, steps=3)
    meter.add(times(1.0), (float("inf"), 0.0, 0.0), skipped=True)
    assert json.loads(to_json(meter.mean_metrics)) == [None, None, None]
    meter.add(times(1.0), (2.0, 50.0, 60.0), skipped=False)
    assert meter.mean_metrics == (2.0, 50.0, 60.0)
    assert meter.skipped == 1


def test_evaluation_epochs_equal_the_originals() -> None:
    due = [epoch for epoch in range(240) if evaluation_is_due(epoch, 240, 5)]
    assert len(due) == 66
    assert due[:2] == [4, 9] and due[-1] == 239
    assert [epoch for epoch in range(10) if evaluation_is_due(epoch, 10, 1)] == list(range(10))
