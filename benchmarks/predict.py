"""Images per second of ``predict``, compared with those of its loader and of its engine alone.

    python -m benchmarks.predict MODEL SOURCE [--rounds 9] [--engine torch] [--batch-size 64] [--repeat 1]

Each round reads all images (loader), computes the logits of all batches that were read before (engine), and
predicts into a file (predict). ``share`` is the median over rounds of predict / (1 / (1/loader + 1/engine)).
It is 1 if predict takes as long as its two parts one after the other. ``cpu_s`` is processor time in seconds.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from shufflenet_fn.use.predict import Predictor, computed_batches
from shufflenet_fn.use.rows import Rows
from shufflenet_fn.use.sources import open_sources


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--repeat", type=int, default=1, help="Times that each image is read, for small folders."
    )
    parser.add_argument("--arch")
    given = parser.parse_args()
    predictor = Predictor.open(given.model, engine=given.engine, device="cpu", arch=given.arch)
    images = open_sources([given.source], predictor.classes)
    images = replace(
        images, indices=np.tile(images.indices, given.repeat), labels=np.tile(images.labels, given.repeat)
    )
    count = len(images)
    batches = partial(
        computed_batches,
        images,
        predictor.transform,
        lambda x: x,
        threaded=False,
        batch_size=given.batch_size,
        workers=None,
        bad_images=None,
    )
    read = [batch.images for batch in batches()]

    def loader() -> None:
        for _ in batches():
            pass

    def engine() -> None:
        for batch in read:
            predictor.logits(batch)

    def predict() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            Rows(Path(folder) / "rows.csv", "csv", 1, resume=False) as rows,
        ):
            for found in predictor.predict_dataset(
                images, top=1, batch_size=given.batch_size, workers=None, bad_images=None
            ):
                rows.write(found)

    parts: tuple[Callable[[], None], ...] = (loader, engine, predict)
    rates: dict[str, list[float]] = {part.__name__: [] for part in parts}
    cpu: dict[str, list[float]] = {part.__name__: [] for part in parts}
    for number in range(given.rounds + 1):  # the first warms up
        for part in parts if number % 2 else reversed(parts):
            start, used = time.perf_counter(), time.process_time()
            part()
            if number:
                rates[part.__name__].append(count / (time.perf_counter() - start))
                cpu[part.__name__].append(time.process_time() - used)
    shares = [p * (1 / a + 1 / b) for a, b, p in zip(*rates.values(), strict=True)]
    result = {
        "images": count,
        "engine": predictor.engine,
        "size": predictor.transform.size,
        "rounds": given.rounds,
        "images_per_s": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "cpu_s": {name: round(statistics.median(values), 3) for name, values in cpu.items()},
        "share": round(statistics.median(shares), 3),
        "shares": [round(share, 3) for share in sorted(shares)],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
