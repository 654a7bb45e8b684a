"""Time of each stage of our loader on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.bench.loading import Reader
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data import geometry
from shufflenet_fn.data.batches import read_natively
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.dataset import Dataset, Stored
from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.lazy_image import RgbImage, Scratch
from shufflenet_fn.data.loader import prefetch_of, train_loader
from shufflenet_fn.data.native.reader import Flags, NativeReader, choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import TRAIN_DRAWS, TrainTransform
from shufflenet_fn.run import build
from shufflenet_fn.run.transfer import DeviceFeed

STAGES = ("read", "draw", "decode", "resize", "jitter", "flip", "normalise")
"""The native reader flips images while it resizes them, and draws numbers while it plans."""
WHOLE = "whole"
BATCH = 32
Prepare = Callable[[torch.Tensor], torch.Tensor]


class StageClock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


class Pipeline(NamedTuple):
    """What is measured: our loader over ``samples``. ``images``: their number."""

    samples: Dataset
    transform: TrainTransform
    native: NativeReader | None
    seed: int
    images: int


def measure_stages(reader: Reader, image_size: int, *, images: int = 256) -> Mapping[str, float]:
    """Return microseconds per image by stage, and of the ``whole`` loader as in training, on one thread.

    ``resize`` writes into the batch, so collating costs nothing. The difference between the whole and the sum
    of the stages is the time to hand over batches.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = TrainSettings(image_size=image_size, color_jitter=reader.jitter)
        transform, _ = build.build_transforms(settings)
        samples = open_split(reader.root, "train")
        native = choose_image_reader(settings.image_reader).reader
        prepare = build.build_prepare(torch.channels_last, torch.device("cpu"), reuse=True, native=native)
        count = min(images, len(samples)) // BATCH * BATCH or len(samples)
        pipeline = Pipeline(samples, transform, native, settings.seed, count)
        whole = _whole(pipeline, prepare)
        clock = StageClock()
        for _ in range(2):  # the first pass warms up
            clock = StageClock()
            _staged(pipeline, prepare, clock)
    finally:
        torch.set_num_threads(before)
    found = {stage: 1e6 * seconds / count for stage, seconds in clock.seconds.items()}
    return {**found, WHOLE: 1e6 * whole / count}


def read_in_stages(
    pipeline: Pipeline, indices: npt.NDArray[np.int64], out: RgbImage, clock: StageClock
) -> npt.NDArray[np.bool_]:
    """Read samples of epoch 0 into ``out`` by the native reader. Return which were read."""
    native = pipeline.native
    before = {} if native is None else native.seconds()
    start = time.perf_counter()

    def read(reader: NativeReader, stored: Stored, part: slice) -> Flags:
        numbers = indices[part], np.zeros_like(indices[part])
        return reader.train(stored, pipeline.transform, pipeline.seed, 0, *numbers, out=out[part])

    done = read_natively(native, pipeline.samples, indices, lambda: False, read)
    if native is None:
        return done
    rest = time.perf_counter() - start
    for stage, seconds in native.seconds().items():
        clock.seconds[stage] += seconds - before[stage]
        rest -= seconds - before[stage]
    clock.seconds["draw"] += rest
    return done


def transform_in_stages(
    pipeline: Pipeline, index: int, out: RgbImage, scratch: Scratch, clock: StageClock
) -> None:
    """Do to sample ``index`` in epoch 0 what the transform does, stage by stage, into ``out``."""
    import cv2

    samples, transform = pipeline.samples, pipeline.transform
    with clock("read"):
        encoded, name = samples.read(index), samples.name(index)
    with clock("draw"):
        draws = sample_rng(pipeline.seed, 0, index).random(TRAIN_DRAWS)
    with clock("decode"):
        picture = open_image(encoded, name=name, scratch=scratch)
        box = geometry.random_resized_crop_box(
            *(picture.height, picture.width),
            scale=transform.scale,
            ratio=transform.ratio,
            draws=draws[: geometry.CROP_DRAWS],
        )
        size = (transform.size, transform.size)
        region, extent = picture.region(box, *size)
    with clock("resize"):
        geometry.resize(region, *size, extent=extent, out=out, scratch=scratch)
    with clock("jitter"):
        transform.colours(out, draws)
    with clock("flip"):
        if draws[-1] < transform.flip:
            cv2.flip(out, 1, dst=out)


def _staged(pipeline: Pipeline, prepare: Prepare, clock: StageClock) -> None:
    scratch, count, size = Scratch(), pipeline.images, pipeline.transform.size
    buffer = np.empty((min(BATCH, count), size, size, 3), dtype=np.uint8)
    for start in range(0, count, len(buffer)):
        indices = np.arange(start, min(start + len(buffer), count))
        done = read_in_stages(pipeline, indices, buffer[: len(indices)], clock)
        for slot in np.flatnonzero(~done).tolist():
            transform_in_stages(pipeline, int(indices[slot]), buffer[slot], scratch, clock)
        with clock("normalise"):
            prepare(torch.from_numpy(buffer).permute(0, 3, 1, 2))


def _whole(pipeline: Pipeline, prepare: Prepare) -> float:
    """Return the seconds of the images through the training loader, read in this thread."""
    batch = min(BATCH, pipeline.images)
    seconds = 0.0
    layout = Layout(batch, pipeline.transform.size)
    feed = DeviceFeed(torch.device("cpu"), layout, ahead=prefetch_of(0))
    for _ in range(2):  # the first pass warms up
        with train_loader(
            pipeline.samples,
            pipeline.transform,
            seed=pipeline.seed,
            global_batch=batch,
            stop_step=pipeline.images // batch,
            threads=0,
            buffers=feed.ready(),
            native=pipeline.native,
        ) as batches:
            start = time.perf_counter()
            for one in map(feed, batches):
                prepare(one.images)
            seconds = time.perf_counter() - start
    return seconds
