"""One device's share of a host that feeds several: our loader, and a device that only takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from shufflenet_fn.bench.our_batches import our_batches
from shufflenet_fn.bench.rounds import cpu_seconds
from shufflenet_fn.bench.workers import workers
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.loader import prefetch_of


class Feeding(NamedTuple):
    """What every device's process does.

    Attributes:
      settings: data, batch size over all devices, crops.
      devices: how many processes.
      threads: loader threads of each.
      step_seconds: how long a device computes; 0 takes batches as they come.
      seconds: how long batches are counted, at least.
    """

    settings: TrainSettings
    devices: int
    threads: int
    step_seconds: float
    seconds: float


class Fed(NamedTuple):
    """What a device got: images in wall seconds, of which it ``waited`` for data; CPU seconds of its host."""

    images: int
    seconds: float
    waited: float
    cpu_seconds: float


def feed_devices(feeding: Feeding) -> list[Fed]:
    """Feed all devices at once, each by a process of its own as ``train`` has it.

    Raises:
        UsageError, UserError: the data cannot be read, or is too little for a batch.
    """
    names = [f"device {rank}" for rank in range(feeding.devices)]
    with (
        workers(names, build_feeding, feeding, threads=1, environment={}) as processes,
        ThreadPoolExecutor(len(names)) as pool,
    ):
        # All open their data first, so that they then run side by side.
        list(pool.map(lambda process: process.value("open"), processes))
        return list(pool.map(lambda process: Fed(*process.value("feed")), processes))


def build_feeding(name: str, case: str, feeding: Feeding) -> Callable[[], Fed | None]:
    """``workers.Build``: a device's process. ``case`` open reads nothing but the list of the images."""
    if case == "open":
        from shufflenet_fn.data.opening import open_split

        open_split(feeding.settings.data or "", "train")
        return lambda: None
    rank = int(name.split()[-1])

    def feed() -> Fed:
        with our_batches(
            feeding.settings, threads=feeding.threads, rank=rank, world_size=feeding.devices
        ) as batches:
            return fed(batches, feeding)

    return feed


def fed(batches: Iterator[Any], feeding: Feeding) -> Fed:
    """Feed one device, from a loader that has nothing ready.

    What it read ahead is thrown away: with a full store even a loader that is too slow looks fast for a
    while. Then as many steps settle the pace, and then steps count, in groups as large as are read side by
    side.
    """
    together = max(1, feeding.threads)
    ahead = prefetch_of(together)
    for _ in range(ahead):
        next(batches)
    for _ in range(ahead):
        _step(batches, feeding.step_seconds)
    images, waited, spent, start = 0, 0.0, cpu_seconds(), time.perf_counter()
    while (taken := time.perf_counter() - start) < feeding.seconds or images == 0:
        for _ in range(together):
            count, seconds = _step(batches, feeding.step_seconds)
            images, waited = images + count, waited + seconds
    return Fed(images, taken, waited, cpu_seconds() - spent)


def _step(batches: Iterator[Any], seconds: float) -> tuple[int, float]:
    """Images of a step and seconds that it waited for them."""
    start = time.perf_counter()
    images = len(next(batches).labels)
    waited = time.perf_counter() - start
    if seconds:
        # A device computes by itself; its host sleeps.
        time.sleep(seconds)
    return images, waited


def total_rate(found: Sequence[Fed]) -> float:
    """Images per second over all devices."""
    return sum(one.images / one.seconds for one in found)
