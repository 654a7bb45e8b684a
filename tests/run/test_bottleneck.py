"""The verdict on a run's steps: every kind, the arithmetic of input-bound, and one of a slow disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.folder import ImageFolder
from shufflenet_fn.run import bottleneck, timing
from shufflenet_fn.run.bottleneck import Reading, find_bottleneck, more_threads
from shufflenet_fn.run.events import StepTimes
from shufflenet_fn.run.timing import SKIPPED_STEPS, StepClock, TimedStep, TimeMeter, _Marks

READING = Reading(batch_size=128, threads=2, cores=2, devices=8, storage="files", accelerator=True)


def times(*, compute: float, **others: float) -> StepTimes:
    """A step of one second: ``compute`` and others make it up. Hidden and device are part of compute."""
    split = {"data": 0.0, "upload": 0.0, "reduce": 0.0, "hidden": 0.0, "device": 0.0, **others}
    return StepTimes(total=1.0, compute=compute, **split)


@pytest.mark.parametrize(
    ("kind", "share", "step"),
    [
        ("input-bound", 0.38, times(compute=0.62, data=0.38)),
        ("upload-bound", 0.3, times(compute=0.5, upload=0.3, data=0.2)),
        ("communication-bound", 0.4, times(compute=0.4, reduce=0.4, data=0.2)),
        ("compute-bound", 0.92, times(compute=0.92, data=0.08, device=0.5)),
        # The host waited for data most of the time, but its device was at work: nothing was lost.
        ("compute-bound", 1.0, times(compute=1.0, hidden=0.7)),
        ("launch-bound", 0.99, times(compute=0.99, data=0.01, device=0.01)),
    ],
)
def test_bottleneck_is_the_longest_part(kind: str, share: float, step: StepTimes) -> None:
    found = find_bottleneck(step, 50, READING)
    assert (found.kind, found.steps) == (kind, 50)
    assert found.share == pytest.approx(share)
    assert found.text.startswith(f"{kind}: ")
    on_cpu = find_bottleneck(step, 50, READING._replace(accelerator=False))
    assert on_cpu.kind == ("compute-bound" if kind == "launch-bound" else kind)


def test_input_bound_says_what_would_end_it() -> None:
    text = find_bottleneck(times(compute=0.62, data=0.38), 50, READING).text
    # 128 images in 1 s from 2 threads; in 0.62 s it takes 3.2 threads.
    assert text == (
        "input-bound: 38 % of the step waits for data (380 of 1000 ms). 2 loader threads per device "
        "deliver 128 images/s, 64 each; the step would take 206: 2 more cores per device or "
        "`shufflenet-fn data pack` would end it"
    )


@pytest.mark.parametrize(
    ("reading", "said", "not_said"),
    [
        (READING._replace(cores=4), "--workers 32 (cores are free)", "more core"),
        (READING._replace(cores=3), "1 short of what it needs) or one more core per device", "two"),
        (READING._replace(storage="packed JPEG"), "`shufflenet-fn data pack --format raw`", "data pack` "),
        (READING._replace(storage="packed pixels"), "2 more cores per device would end it", "data pack"),
        (READING._replace(threads=0), "--workers 8 reads ahead", "data pack"),
    ],
)
def test_the_advice_fits_how_the_data_is_read(reading: Reading, said: str, not_said: str) -> None:
    text = find_bottleneck(times(compute=0.62, data=0.38), 50, reading).text
    assert said in text and not_said not in text


@pytest.mark.parametrize(
    ("threads", "wait", "more"), [(1, 0.5, 1), (2, 0.38, 2), (4, 0.2, 1), (1, 0.9, 9), (2, 0.01, 1)]
)
def test_threads_read_batches_while_step_computes(threads: int, wait: float, more: int) -> None:
    assert more_threads(threads, 1.0, wait) == more
    assert threads + more >= threads / (1.0 - wait) - 0.05


class Clock:
    """In place of ``time``: a millisecond from one look at it to the next."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.001
        return self.now


@pytest.mark.parametrize(("after", "said"), [(50, "over all 4 steps: "), (3, "after 3 steps: ")])
def test_training_on_a_slow_disk_is_input_bound(
    command: Callable[..., Any],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    said: str,
) -> None:
    clock, read = Clock(), ImageFolder.read

    def slow(folder: ImageFolder, index: int) -> Encoded:
        clock.now += 0.3
        return read(folder, index)

    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(ImageFolder, "read", slow)
    monkeypatch.setattr(bottleneck, "BOTTLENECK_STEPS", after)
    outcome = command(
        *("train", "--data", image_folder, "--arch", "x0_5", "--image-size", 32, "--device", "cpu"),
        *("--batch-size", 2, "--epochs", 2, "--max-steps", 14, "--workers", 0, "--run-dir", "run"),
        *("--image-reader", "python"),
    )
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["verdict"]["kind"] == "input-bound" and results["verdict"]["steps"] == 4
    seconds = results["step_seconds"]
    assert seconds["data"] == pytest.approx(0.6, abs=0.01)
    assert results["verdict"]["share"] == pytest.approx(seconds["data"] / seconds["total"])
    split = [seconds[name] for name in ("data", "upload", "compute", "reduce")]
    assert sum(split) == pytest.approx(seconds["total"])
    assert seconds["hidden"] == 0
    for text in (outcome.out, (tmp_path / "run" / "log.txt").read_text()):
        assert text.count("input-bound: ") == 1 and f"{said}input-bound: " in text and "reads ahead" in text


# ---- the split of a step. On an accelerator it is read off events, here with a clock that the test sets ----


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
    meter, one = TimeMeter(), StepTimes(9.0, 8.0, 0.0, 1.0, 0.0)
    for _ in range(SKIPPED_STEPS):
        meter.add(one)
    assert (meter.steps, meter.mean_times.total) == (0, 0.0)
    meter.add(one._replace(total=1.0, hidden=0.5))
    meter.add(one._replace(total=3.0))
    assert meter.steps == 2
    assert meter.mean_times == one._replace(total=2.0, hidden=0.25)
