"""``bench input``: whether this host could feed so many devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from shufflenet_fn.bench.feeding import Fed, Feeding, feed_devices, total_rate
from shufflenet_fn.bench.settings import InputBenchSettings, check
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.run.directory import environment
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.support.errors import UsageError

Progress = Callable[[str], None]

FEEDS = 0.02
"""A host feeds its devices if none waits for data longer than this share of a step."""


def _silent(text: str) -> None:
    pass


def run_input_bench(
    settings: InputBenchSettings, *, progress: Progress = _silent
) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench input --json``. Rates are images/s over all devices.

    * ``maximum_img_s``: what the loader gives devices that take batches as they come;
    * ``cpu_s_per_1000``: CPU seconds of 1,000 images there, over all cores;
    * ``step_ms``: how long a device computes at a batch, as given or from ``load``; ``null`` if only the
      maximum was asked for, and with it all that follows but the verdict;
    * ``demanded_img_s``: what devices that never wait would take; ``delivered_img_s``: what they got;
    * ``data_wait``: share of a step that each device waited; ``feeds``: whether none did for more than 2 %;
    * ``headroom``: maximum / demanded; ``cores_needed``: CPU seconds of reading in a second at the demand;
    * ``verdict``: all that in words.

    Raises:
        UsageError: a setting is not allowed, or the data is none.
        UserError: an image cannot be read.
    """
    check(settings)
    if settings.data is None:
        raise UsageError("bench input needs --data DIR: a folder of images, or packed data.")
    if settings.step_ms is not None and settings.load is not None:
        raise UsageError("--step-ms and --load exclude each other: both say how long a step takes.")
    images = rank_batch_size(settings.batch_size, settings.devices)
    feeding = Feeding(
        settings=TrainSettings(
            data=settings.data,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            color_jitter=settings.color_jitter,
        ),
        devices=settings.devices,
        threads=loader_threads(settings.workers, settings.devices),
        step_seconds=0.0,
        seconds=settings.seconds,
    )
    progress(f"the loader's maximum, {feeding.threads} threads for each device")
    fastest = feed_devices(feeding)
    maximum = total_rate(fastest)
    result = {
        **asdict(settings),
        "threads": feeding.threads,
        "cores": usable_cores(),
        "environment": environment(),
        "maximum_img_s": maximum,
        "cpu_s_per_1000": 1000 * _cpu_per_image(fastest),
        "step_ms": None,
        "demanded_img_s": None,
        "delivered_img_s": None,
        "data_wait": None,
        "feeds": None,
        "headroom": None,
        "cores_needed": None,
    }
    seconds = (settings.step_ms or 0.0) / 1000
    if settings.load is not None:
        seconds = settings.batch_size / (settings.load * maximum)
    if seconds:
        progress(f"devices that compute {1000 * seconds:.4g} ms at {images} images")
        paced = feed_devices(feeding._replace(step_seconds=seconds))
        demanded = settings.batch_size / seconds
        waits = [one.waited / one.seconds for one in paced]
        result |= {
            "step_ms": 1000 * seconds,
            "demanded_img_s": demanded,
            "delivered_img_s": total_rate(paced),
            "data_wait": waits,
            "feeds": max(waits) <= FEEDS,
            "headroom": maximum / demanded,
            "cores_needed": demanded * _cpu_per_image(paced),
        }
    return {**result, "verdict": verdict_text(result)}


def verdict_text(result: dict[str, Any]) -> str:
    """Whether the host feeds its devices, in words."""
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
        # Processor time would do: what is missing is threads that use it, or a faster disk.
        cure = f"reading takes {needed} of {cores} cores: more --workers, a faster disk"
    return f"no: {demand}; {wait}. {cure} or `shufflenet-fn data pack` would help"


def _cpu_per_image(found: Sequence[Fed]) -> float:
    return sum(one.cpu_seconds for one in found) / sum(one.images for one in found)
