"""The verdict on a run's steps: every kind, the arithmetic of input-bound, and one of a slow disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.data.dataset import Dataset, Encoded
from shufflenet_fn.run import build, timing
from shufflenet_fn.run.bottleneck import Reading, find_bottleneck, more_threads
from shufflenet_fn.run.events import StepTimes

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


def test_cpu_is_never_launch_bound() -> None:
    found = find_bottleneck(times(compute=1.0), 50, READING._replace(accelerator=False))
    assert found.kind == "compute-bound"


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


class Slow:
    """A split whose every sample takes 0.3 s of ``clock`` to read."""

    def __init__(self, samples: Dataset, clock: Clock) -> None:
        self._samples, self._clock = samples, clock
        self.root, self.split = samples.root, samples.split
        self.classes, self.labels = samples.classes, samples.labels
        self.name = samples.name

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: int) -> Encoded:
        self._clock.now += 0.3
        return self._samples.read(index)


def test_training_on_a_slow_disk_is_input_bound(
    command: Callable[..., Any], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, opened = Clock(), build.open_data

    def slow(*given: Any, **named: Any) -> tuple[Any, Dataset]:
        train, val = opened(*given, **named)
        return Slow(train, clock), val

    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(build, "open_data", slow)
    outcome = command(
        *("train", "--data", image_folder, "--arch", "x0_5", "--image-size", 32, "--device", "cpu"),
        *("--batch-size", 2, "--epochs", 2, "--max-steps", 14, "--workers", 0, "--run-dir", "run"),
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
        assert "over all 4 steps: input-bound: " in text and "reads ahead" in text


def test_bottleneck_is_reported_once_after_fifty_steps(
    command: Callable[..., Any], image_folder: Path
) -> None:
    outcome = command(
        *("train", "--data", image_folder, "--arch", "x0_5", "--image-size", 32, "--device", "cpu"),
        *("--batch-size", 2, "--epochs", 6, "--max-steps", 62, "--run-dir", "run"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("after 50 steps: ") == 1
