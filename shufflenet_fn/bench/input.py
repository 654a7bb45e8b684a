"""``bench input``: whether this host can feed a number of devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from shufflenet_fn.bench.loading import Loaded, measured, our_batches
from shufflenet_fn.bench.rounds import Progress, silent
from shufflenet_fn.bench.settings import InputBenchSettings
from shufflenet_fn.bench.workers import Step, workers
from shufflenet_fn.config.options import check_options
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.run.directory import environment
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.support.errors import UsageError

FEEDS: Final = 0.02
"""A host feeds its devices if none waits for data longer than this share of a step."""


def run_input_bench(settings: InputBenchSettings, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench input --json``. Rates are images/s over all devices.

    * ``maximum_img_s``: rate of the loader if devices consume batches immediately;
    * ``cpu_s_per_1000``: CPU seconds per 1,000 images at that rate, over all cores;
    * ``step_ms``: compute time of a batch, as given or from ``load``. ``null`` if only the maximum was
      measured; then all following values except ``verdict`` are ``null``, too;
    * ``demanded_img_s``: rate of devices that never wait; ``delivered_img_s``: measured rate;
    * ``data_wait``: share of a step that each device waited; ``feeds``: whether all waited for at most 2 %;
    * ``headroom``: maximum / demanded; ``cores_needed``: CPU seconds per second at the demanded rate;
    * ``verdict``: the same in words.

    Raises:
        UsageError: a setting is not allowed, or there is no data set.
        UserError: an image cannot be read.
    """
    check_options(settings)
    if settings.data is None:
        raise UsageError("bench input needs --data DIR: a folder of images, or packed data.")
    if settings.step_ms is not None and settings.load is not None:
        raise UsageError("--step-ms and --load exclude each other: both say how long a step takes.")
    images = rank_batch_size(settings.batch_size, settings.devices)
    threads = loader_threads(settings.workers, settings.devices)
    progress(f"the loader's maximum, {threads} threads for each device")
    fastest = _feed_devices(Feeding(settings, threads, 0.0))
    maximum = _total_rate(fastest)
    result = {
        **asdict(settings),
        "threads": threads,
        "cores": usable_cores(),
        "environment": environment(),
        "maximum_img_s": maximum,
        "cpu_s_per_1000": 1000 * _cpu_per_image(fastest),
        **dict.fromkeys(("step_ms", "demanded_img_s", "delivered_img_s", "data_wait", "feeds")),
        **dict.fromkeys(("headroom", "cores_needed")),
    }
    seconds = (settings.step_ms or 0.0) / 1000
    if settings.load is not None:
        seconds = settings.batch_size / (settings.load * maximum)
    if seconds:
        progress(f"devices that compute {1000 * seconds:.4g} ms at {images} images")
        paced = _feed_devices(Feeding(settings, threads, seconds))
        demanded = settings.batch_size / seconds
        waits = [one.waited / one.seconds for one in paced]
        result |= {
            "step_ms": 1000 * seconds,
            "demanded_img_s": demanded,
            "delivered_img_s": _total_rate(paced),
            "data_wait": waits,
            "feeds": max(waits) <= FEEDS,
            "headroom": maximum / demanded,
            "cores_needed": demanded * _cpu_per_image(paced),
        }
    return {**result, "verdict": conclusion(result)}


def conclusion(result: dict[str, Any]) -> str:
    """Return in words whether the host feeds its devices."""
    devices = f"{result['devices']} device{'s' if result['devices'] > 1 else ''}"
    if result["step_ms"] is None:
        return (
            f"this host gives {devices} {result['maximum_img_s']:.0f} images/s at most. With --step-ms it "
            "says whether that is enough."
        )
    demand = (
        f"{devices} at {result['step_ms']:.4g} ms take {result['demanded_img_s']:.0f} images/s, and the "
        f"loader gives {result['maximum_img_s']:.0f} at most"
    )
    wait = f"{100 * max(result['data_wait']):.1f} % of a step waits for data"
    if result["feeds"]:
        return f"yes: {demand}, {result['headroom']:.2f} times that; {wait}"
    cores, needed = result["cores"], math.ceil(result["cores_needed"])
    if needed > cores:
        cure = f"reading takes {needed} cores and there are {cores}: more cores"
    else:
        # The cores would suffice: more threads are needed, or a faster disk.
        cure = f"reading takes {needed} of {cores} cores: more --workers, a faster disk"
    return f"no: {demand}; {wait}. {cure} or `shufflenet-fn data pack` would help"


class Feeding(NamedTuple):
    """What every device's process does, with ``threads`` loader threads.

    ``step_seconds``: how long a device computes; 0 takes batches as they come.
    """

    settings: InputBenchSettings
    threads: int
    step_seconds: float


def _feed_devices(feeding: Feeding) -> list[Loaded]:
    """Feed all devices at once, each from a separate process, as ``train`` does."""
    names = [f"device {rank}" for rank in range(feeding.settings.devices)]
    with (
        workers(names, build_feeding, feeding, threads=1) as processes,
        ThreadPoolExecutor(len(names)) as pool,
    ):
        # All open their data first, so that they then run side by side.
        list(pool.map(lambda process: process.value("open"), processes))
        return list(pool.map(lambda process: process.value("feed"), processes))


def build_feeding(name: str, case: str, feeding: Feeding) -> Step:
    """``workers.Build``: a device's process. Case ``open`` reads only the list of images."""
    given, threads = feeding.settings, feeding.threads
    settings = TrainSettings(
        data=given.data,
        image_size=given.image_size,
        batch_size=given.batch_size,
        color_jitter=given.color_jitter,
    )
    if case == "open":
        open_split(settings.data or "", "train")
        return lambda: None

    rank = int(name.split()[-1])

    def feed() -> Loaded:
        with our_batches(settings, threads=threads, rank=rank, world_size=given.devices) as batches:
            labels = (examples.labels for examples in batches)
            return measured(labels, threads, given.seconds, feeding.step_seconds)

    return feed


def _total_rate(found: Sequence[Loaded]) -> float:
    return sum(one.images / one.seconds for one in found)


def _cpu_per_image(found: Sequence[Loaded]) -> float:
    return sum(one.cpu_seconds for one in found) / sum(one.images for one in found)
