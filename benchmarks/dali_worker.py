"""NVIDIA DALI on the CPU as a candidate of ``input.py``. Needs an interpreter with DALI and numpy.

Its argument is a JSON object of settings. For each line on standard input, it runs one turn and prints
``[images, seconds, CPU seconds]``. Does not import shufflenet-fn.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

PREFETCH = 2
QUIET_S = 0.1


def build(settings: dict[str, Any]) -> Any:
    """Build the pipeline: fused decode and crop, antialiased triangular filter, jitter, normalised floats."""
    from nvidia.dali import fn, pipeline_def, types

    files = sorted(str(path) for path in Path(settings["root"], "train").glob("*/*"))
    jitter = settings["jitter"]

    @pipeline_def
    def pipeline() -> Any:
        encoded, labels = fn.readers.file(
            files=files, labels=[0] * len(files), random_shuffle=True, initial_fill=1024
        )
        images = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_aspect_ratio=[3 / 4, 4 / 3],
            random_area=[0.08, 1.0],
        )
        size = [settings["image_size"]] * 2
        images = fn.resize(images, size=size, interp_type=types.INTERP_TRIANGULAR, antialias=True)
        if jitter:
            drawn = {
                name: fn.random.uniform(range=[1 - jitter, 1 + jitter])
                for name in ("brightness", "contrast", "saturation")
            }
            images = fn.color_twist(images, **drawn)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout=settings["layout"],
            mean=[255 * mean for mean in (0.485, 0.456, 0.406)],
            std=[255 * std for std in (0.229, 0.224, 0.225)],
            mirror=fn.random.coin_flip(),
        )
        return images, labels

    built = pipeline(
        batch_size=settings["batch_size"],
        num_threads=settings["threads"],
        device_id=None,
        prefetch_queue_depth=PREFETCH,
    )
    built.build()
    return built


def turn(pipeline: Any, batch_size: int, seconds: float) -> tuple[int, float, float]:
    """Run a turn like ``shufflenet_fn.bench.loading.measured``: skip prefetched batches, wait until idle."""
    for _ in range(PREFETCH + 1):
        pipeline.run()
    images, spent, start = 0, time.process_time(), time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or images == 0:
        pipeline.run()
        images += batch_size
    spent = time.process_time() - spent
    before, now = -1.0, time.process_time()
    while now - before > 0.25 * QUIET_S:
        time.sleep(QUIET_S)
        before, now = now, time.process_time()
    return images, taken, spent


def main() -> None:
    settings = json.loads(sys.argv[1])
    pipeline = build(settings)
    for _ in sys.stdin:
        print(json.dumps(turn(pipeline, settings["batch_size"], settings["seconds"])), flush=True)


if __name__ == "__main__":
    main()
