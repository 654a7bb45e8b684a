"""Time of each stage of our loader on one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from shufflenet_fn.bench.loading import Reader, our_batches
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.native.reader import STAGES as READER_STAGES
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.run import build

STAGES = (*READER_STAGES, "normalise", "rest")
"""``rest``: random numbers, images that the native reader does not take, and handing over batches."""
WHOLE = "whole"
BATCH = 32


def measure_stages(reader: Reader, image_size: int, *, images: int = 256) -> Mapping[str, float]:
    """Return microseconds per image by stage, and of the ``whole`` loader as in training, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        held = len(open_split(reader.root, "train"))
        batch = min(BATCH, held)
        count = min(images, held) // batch
        settings = TrainSettings(
            data=reader.root, image_size=image_size, batch_size=batch, color_jitter=reader.jitter
        )
        chosen = choose_image_reader(settings.image_reader)
        prepare = build.build_prepare(
            torch.channels_last, torch.device("cpu"), reuse=True, native=chosen.reader
        )
        seconds: dict[str, float] = {}
        for _ in range(2):  # the first pass warms up
            read = dict.fromkeys(READER_STAGES, 0.0) if chosen.reader is None else chosen.reader.seconds()
            normalise = 0.0
            with our_batches(settings, threads=0, reader=chosen) as batches:
                start = time.perf_counter()
                for _ in range(count):
                    examples = next(batches)
                    given = time.perf_counter()
                    prepare(examples.images)
                    normalise += time.perf_counter() - given
                whole = time.perf_counter() - start
            after = read if chosen.reader is None else chosen.reader.seconds()
            seconds = {stage: after[stage] - read[stage] for stage in READER_STAGES}
            seconds |= {"normalise": normalise, WHOLE: whole}
    finally:
        torch.set_num_threads(before)
    rest = seconds[WHOLE] - sum(value for stage, value in seconds.items() if stage != WHOLE)
    found = {**seconds, "rest": rest}
    return {stage: 1e6 * found[stage] / (count * batch) for stage in (*STAGES, WHOLE)}
