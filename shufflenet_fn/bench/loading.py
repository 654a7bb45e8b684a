"""Candidates that read a data set into batches for the first convolution, and the measurement of a turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from shufflenet_fn.bench.rounds import cpu_seconds, settle
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import prefetch_of, train_loader
from shufflenet_fn.data.native.reader import ImageReader, choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.run import build
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn.training.step import Examples

ENDLESS = 10**7
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


@contextmanager
def our_batches(
    settings: TrainSettings,
    *,
    threads: int,
    rank: int = 0,
    world_size: int = 1,
    reader: ImageReader | None = None,
) -> Iterator[Iterator[Examples]]:
    """The endless batches of ``settings.data`` on the CPU, each valid until the next is asked for.

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


def build_loading(name: str, case: str, loading: Loading) -> Callable[[], Loaded]:
    """Build the candidate ``name`` of ``loading`` (``workers.Build``). A step is a whole turn.

    A batch counts when it is float32, normalised and ready for the first convolution. The consuming thread
    alone normalises ours, because a second thread would slow the reading threads.
    """
    reader = loading.readers[name]
    batches = _BATCHES[reader.loader](reader, loading)
    together = max(1, reader.workers)
    # Twice the workers, as torch's loader prefetches.
    ahead = prefetch_of(together)
    return lambda: measured(batches, ahead, together, loading.seconds)


def measured(
    batches: Iterator[Any], ahead: int, together: int, seconds: float, step_seconds: float = 0.0
) -> Loaded:
    """Run a turn of a loader that prefetches.

    Batches that it has prefetched are consumed first and do not count: with a full queue, even a loader that
    is too slow looks fast for a while. Then batches count for at least ``seconds``, in groups of as many as
    are read in parallel. The turn ends when the prefetch queue is full again, so that the loader does not
    slow the next candidate.

    Args:
      batches: an endless iterator.
      ahead: maximum number of prefetched batches.
      together: number of batches that are read in parallel.
      seconds: minimum length of the measurement.
      step_seconds: seconds that a device computes with each batch, while its host sleeps.
    """
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
    settle()
    return loaded


def _our_batches(reader: Reader, loading: Loading) -> Iterator[Any]:
    """Yield batches as in ``shufflenet-fn train``, from an image folder or packed data."""
    settings = TrainSettings(
        data=reader.root,
        image_size=loading.image_size,
        batch_size=loading.batch_size,
        color_jitter=reader.jitter,
    )
    native = choose_image_reader(settings.image_reader).reader
    prepare = build.build_prepare(torch.channels_last, torch.device("cpu"), reuse=True, native=native)
    with our_batches(settings, threads=reader.workers) as batches:
        for examples in batches:
            yield prepare(examples.images) if reader.normalised else examples.images


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


_BATCHES: Mapping[str, Callable[[Reader, Loading], Iterator[Any]]] = {
    "ours": _our_batches,
    "torchvision": _torchvision_batches,
}
