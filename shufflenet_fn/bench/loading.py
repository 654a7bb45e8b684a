"""Candidates that read a data set into batches for the first convolution, and the measurement of a turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch

from shufflenet_fn.bench.rounds import cpu_seconds
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import prefetch_of, train_loader
from shufflenet_fn.data.native.reader import STAGES as READER_STAGES
from shufflenet_fn.data.native.reader import ImageReader, choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.run import build
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn.training.step import Examples

ENDLESS: Final = 10**7
"""Batches of a loader that never comes to its end."""


class Reader(NamedTuple):
    """A candidate.

    Attributes:
      loader: ours, or torchvision's ``ImageFolder`` with torch's ``DataLoader``.
      root: a data folder, packed or not.
      workers: number of our reading threads, or of torch's worker processes.
      jitter: strength of brightness, contrast and saturation jitter; 0 is off.
      normalised: whether the consuming thread normalises our batches; otherwise they count as uint8, as the
          reading threads return them.
    """

    loader: Literal["ours", "torchvision"]
    root: str
    workers: int
    jitter: float
    normalised: bool = True


class Loading(NamedTuple):
    """Settings of all candidates: the readers by name, and the minimum ``seconds`` of a turn."""

    readers: Mapping[str, Reader]
    batch_size: int
    image_size: int
    seconds: float


class Loaded(NamedTuple):
    """A turn: images, wall seconds, CPU seconds of the process with its children, seconds waited for data."""

    images: int
    seconds: float
    cpu_seconds: float
    waited: float

    @property
    def per_image(self) -> float:
        """Wall seconds per image."""
        return self.seconds / self.images

    @property
    def cpu_per_image(self) -> float:
        """CPU seconds per image."""
        return self.cpu_seconds / self.images


@contextmanager
def our_batches(
    settings: TrainSettings,
    *,
    threads: int,
    rank: int = 0,
    world_size: int = 1,
    reader: ImageReader | None = None,
) -> Iterator[Iterator[Examples]]:
    """Yield the endless batches of ``settings.data`` on the CPU, each valid until the next is asked for.

    Raises:
        UsageError: there is no such data, or too little for a batch.
    """
    samples = open_split(settings.data or "", "train")
    transform, _ = build.build_transforms(settings)
    layout = Layout(rank_batch_size(settings.batch_size, world_size), settings.image_size)
    feed = DeviceFeed(torch.device("cpu"), layout, ahead=prefetch_of(threads))
    with train_loader(
        samples,
        transform,
        seed=settings.seed,
        global_batch=settings.batch_size,
        rank=rank,
        world_size=world_size,
        stop_step=ENDLESS,
        threads=threads,
        buffers=feed.ready(),
        native=(reader or choose_image_reader(settings.image_reader)).reader,
    ) as batches:
        yield map(feed, batches)


def build_loading(name: str, case: str, loading: Loading) -> Step:
    """Build the candidate ``name`` of ``loading`` (``workers.Build``). A step is a whole turn.

    A batch counts when it is float32, normalised and ready for the first convolution. The consuming thread
    alone normalises ours, because a second thread would slow the reading threads.
    """
    reader = loading.readers[name]
    candidate = _our_batches if reader.loader == "ours" else _torchvision_batches
    batches, together = candidate(reader, loading), max(1, reader.workers)
    return lambda: measured(batches, together, loading.seconds)


def measured(batches: Iterator[Any], together: int, seconds: float, step_seconds: float = 0.0) -> Loaded:
    """Run a turn of a loader that prefetches.

    Batches that it has prefetched are consumed first and do not count: with a full queue, even a loader that
    is too slow looks fast for a while. Then batches count for at least ``seconds``, in groups of as many as
    are read in parallel. The turn ends when the prefetch queue is full again, so that the loader does not
    slow the next candidate.

    Args:
      batches: an endless iterator.
      together: number of batches that are read in parallel.
      seconds: minimum length of the measurement.
      step_seconds: seconds that a device computes with each batch, while its host sleeps.
    """
    ahead = prefetch_of(together)  # as many as torch's loader prefetches
    for number in range(2 * ahead if step_seconds else ahead):
        next(batches)
        if number >= ahead:  # these settle the pace
            time.sleep(step_seconds)
    images, waited, spent, start = 0, 0.0, cpu_seconds(), time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or images == 0:
        for _ in range(together):
            asked = time.perf_counter()
            images += len(next(batches))
            waited += time.perf_counter() - asked
            if step_seconds:
                time.sleep(step_seconds)
    loaded = Loaded(images, taken, cpu_seconds() - spent, waited)
    _settle()
    return loaded


def _settle(*, quiet: float = 0.1, longest: float = 10.0) -> None:
    """Wait until this process and its children use no CPU for ``quiet`` seconds, at most ``longest``."""
    end, before = time.monotonic() + longest, cpu_seconds()
    while time.monotonic() < end:
        time.sleep(quiet)
        now = cpu_seconds()
        if now - before < 0.25 * quiet:
            return
        before = now


def _our_batches(reader: Reader, loading: Loading) -> Iterator[Any]:
    """Yield batches as in ``shufflenet-fn train``, from an image folder or packed data."""
    settings = _train_settings(reader, loading.batch_size, loading.image_size)
    native = choose_image_reader(settings.image_reader).reader
    prepare = build.build_prepare(torch.channels_last, torch.device("cpu"), reuse=True, native=native)
    with our_batches(settings, threads=reader.workers) as batches:
        for examples in batches:
            yield prepare(examples.images) if reader.normalised else examples.images


def _train_settings(reader: Reader, batch_size: int, image_size: int) -> TrainSettings:
    return TrainSettings(
        data=reader.root, image_size=image_size, batch_size=batch_size, color_jitter=reader.jitter
    )


def _torchvision_batches(reader: Reader, loading: Loading) -> Iterator[Any]:
    """Yield torchvision's batches: Pillow, transforms and normalisation in the workers, memory not pinned."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import datasets, transforms

    from shufflenet_fn.data.device_ops import IMAGENET_MEAN, IMAGENET_STD

    jitter = [transforms.ColorJitter(*[reader.jitter] * 3)] if reader.jitter else []
    folder = datasets.ImageFolder(
        str(Path(reader.root) / "train"),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(loading.image_size, antialias=True),
                *jitter,
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        ),
    )
    loader = DataLoader(
        folder,
        loading.batch_size,
        # One endless epoch: between epochs the workers would run dry.
        sampler=RandomSampler(folder, replacement=True, num_samples=ENDLESS * loading.batch_size),
        num_workers=reader.workers,
        persistent_workers=reader.workers > 0,
    )
    for images, _ in loader:
        yield images


STAGES: Final = (*READER_STAGES, "normalise", "rest")
"""``rest``: random numbers, images that the native reader does not take, and handing over batches."""
WHOLE: Final = "whole"
_BATCH: Final = 32


def measure_stages(reader: Reader, image_size: int, *, images: int = 256) -> Mapping[str, float]:
    """Return microseconds per image by stage, and of the ``whole`` loader as in training, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        held = len(open_split(reader.root, "train"))
        batch = min(_BATCH, held)
        count = min(images, held) // batch
        settings = _train_settings(reader, batch, image_size)
        chosen = choose_image_reader(settings.image_reader)
        native = chosen.reader
        prepare = build.build_prepare(torch.channels_last, torch.device("cpu"), reuse=True, native=native)
        seconds: dict[str, float] = {}
        for _ in range(2):  # the first pass warms up
            read = dict.fromkeys(READER_STAGES, 0.0) if native is None else native.seconds()
            normalise = 0.0
            with our_batches(settings, threads=0, reader=chosen) as batches:
                start = time.perf_counter()
                for _ in range(count):
                    examples = next(batches)
                    given = time.perf_counter()
                    prepare(examples.images)
                    normalise += time.perf_counter() - given
                whole = time.perf_counter() - start
            after = read if native is None else native.seconds()
            seconds = {stage: after[stage] - read[stage] for stage in READER_STAGES}
            seconds |= {"normalise": normalise, WHOLE: whole}
    finally:
        torch.set_num_threads(before)
    rest = seconds[WHOLE] - sum(value for stage, value in seconds.items() if stage != WHOLE)
    found = {**seconds, "rest": rest}
    return {stage: 1e6 * found[stage] / (count * batch) for stage in (*STAGES, WHOLE)}
