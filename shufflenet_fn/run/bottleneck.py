"""Find the bottleneck of a run's steps, and describe it with numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from shufflenet_fn.data.packed.read import PackedSplit
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.run.events import StepTimes
from shufflenet_fn.run.timing import BOTTLENECK_STEPS
from shufflenet_fn_backends.runtimes.cpu import usable_cores

if TYPE_CHECKING:
    from shufflenet_fn.run.training import Training

BOUND = 0.1
"""Smallest share of a step that makes a part other than computation its bottleneck."""

IDLE_HOST = 0.02
"""An accelerator keeps up with its host if the host waits for it less than this share of a step."""

Kind = Literal["input-bound", "upload-bound", "communication-bound", "launch-bound", "compute-bound"]

Storage = Literal["files", "packed JPEG", "packed pixels"]


class Reading(NamedTuple):
    """How one device of a machine with ``devices`` reads its data.

    ``batch_size``: images of a step. ``threads``: its loader threads; 0 if the training loop reads itself.
    ``cores``: its share of the machine's. ``accelerator``: whether it computes beside the host.
    """

    batch_size: int
    threads: int
    cores: int
    devices: int
    storage: Storage
    accelerator: bool


class Bottleneck(NamedTuple):
    """``kind`` and ``text`` of a bottleneck, its ``share`` of a step, and the measured ``steps``."""

    kind: Kind
    share: float
    steps: int
    text: str


def find_bottleneck(times: StepTimes, steps: int, reading: Reading) -> Bottleneck:
    """Return the bottleneck of steps with these mean ``times``.

    It is the longest part of a step apart from computation, if that takes at least a tenth of the step.
    """
    total, waiting = times.total, times.device + times.hidden
    besides: dict[Kind, float] = {
        "input-bound": times.data,
        "upload-bound": times.upload,
        "communication-bound": times.reduce,
    }
    kind = max(besides, key=lambda name: besides[name])
    seconds = besides[kind]
    if seconds < BOUND * total:
        kind, seconds = "compute-bound", times.compute
        # A host that waits neither for its device nor, while that works, for data is the slower of the two.
        if reading.accelerator and waiting < IDLE_HOST * total:
            kind = "launch-bound"
    share = seconds / total
    of_step = f"{100 * share:.0f} % of the step"
    hidden = ""
    if times.hidden > 0:  # the loader's slack, where a device works while the host waits
        hidden = f"; {100 * times.hidden / total:.0f} % more of it behind the device's back, at no cost"
    milliseconds = f"{1000 * seconds:.0f} of {1000 * total:.0f} ms"
    words = {
        "input-bound": f"{of_step} waits for data ({milliseconds}). {_more_input(times, reading)}",
        "upload-bound": f"{of_step} hands the batch to the device ({milliseconds}). A smaller "
        "--image-size uploads less; `shufflenet-fn doctor` measures the host's memory and the device.",
        "communication-bound": f"{of_step} is the collective ({milliseconds}), waiting for the slowest "
        "device included. A larger --batch-size or --accumulate needs it less often.",
        "launch-bound": f"the host hardly ever waits for the device "
        f"({100 * waiting / total:.1f} % of the step): launching takes "
        "longer than computing. A larger --batch-size gives each launch more work.",
        "compute-bound": f"{of_step} computes, {100 * times.data / total:.0f} % waits for data{hidden}",
    }
    return Bottleneck(kind, share, steps, f"{kind}: {words[kind]}")


def more_threads(threads: int, step: float, wait: float) -> int:
    """Return the threads to add so that a step of ``step`` seconds no longer waits ``wait`` of them.

    Threads that are waited for are all busy: together they read a batch in ``step`` and would have to in
    ``step - wait``.
    """
    need = threads * step / max(step - wait, 1e-9)
    # What is short of a whole thread by less than the measurement can tell is no thread.
    return max(1, math.ceil(need - threads - 0.05))


def _more_input(times: StepTimes, reading: Reading) -> str:
    """Return what the loader delivers, what the step needs, and what would close the gap."""
    wanted = reading.batch_size / max(times.total - times.data, 1e-9)
    delivered = reading.batch_size / times.total
    if reading.threads == 0:
        return (
            f"The training loop reads by itself (--workers 0); without that the step would take "
            f"{wanted:.0f} images/s and takes {delivered:.0f}. --workers {reading.devices} reads ahead."
        )
    more = more_threads(reading.threads, times.total, times.data)
    spare = reading.cores - reading.threads
    ways = []
    if spare > 0:
        workers = (reading.threads + min(more, spare)) * reading.devices
        enough = "" if spare >= more else f", {more - spare} short of what it needs"
        ways.append(f"--workers {workers} (cores are free{enough})")
    if spare < more:
        ways.append(f"{_count(more - max(0, spare), 'more core')} per device")
    if reading.storage == "files":
        ways.append("`shufflenet-fn data pack`")
    elif reading.storage == "packed JPEG":
        ways.append("`shufflenet-fn data pack --format raw`")
    return (
        f"{_count(reading.threads, 'loader thread')} per device deliver"
        f"{'s' if reading.threads == 1 else ''} {delivered:.0f} images/s, "
        f"{delivered / reading.threads:.0f} each; the step would take {wanted:.0f}: "
        f"{' or '.join(ways)} would end it"
    )


def _count(number: int, noun: str) -> str:
    return f"{number if number > 1 else 'one'} {noun}{'s' if number > 1 else ''}"


def report_bottleneck(run: Training, times: StepTimes) -> None:
    """Count a step; report the bottleneck after ``BOTTLENECK_STEPS`` measured ones. Call it on all ranks."""
    run.waits.add(times)
    if run.bottleneck is None and run.waits.steps == BOTTLENECK_STEPS:
        run.bottleneck = _bottleneck_of(run)
        if run.world.is_main:
            run.reporter.note(f"after {BOTTLENECK_STEPS} steps: {run.bottleneck.text}")


def mean_bottleneck(run: Training) -> Bottleneck | None:
    """Return the bottleneck of all steps; ``None`` if none was measured. Call it on all ranks."""
    if run.waits.steps == 0:
        return None
    before, run.bottleneck = run.bottleneck, _bottleneck_of(run)
    if run.world.is_main and (before is None or before.kind != run.bottleneck.kind):
        run.reporter.note(f"over all {run.bottleneck.steps} steps: {run.bottleneck.text}")
    return run.bottleneck


def _bottleneck_of(run: Training) -> Bottleneck:
    # The rank that waits least in the collective is the one that the others wait for.
    times = min(gather(run.waits.mean_times, run.world), key=lambda t: t.reduce)
    storage: Storage = "files"
    if isinstance(run.train_set, PackedSplit):
        storage = "packed pixels" if run.train_set.raw else "packed JPEG"
    reading = Reading(
        batch_size=run.global_batch // run.world.size,
        threads=run.threads,
        cores=max(1, usable_cores() // run.world.local_size),
        devices=run.world.local_size,
        storage=storage,
        accelerator=run.device.type != "cpu",
    )
    return find_bottleneck(times, run.waits.steps, reading)
