"""Our batches as training has them, for the benchmarks of loaders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import prefetch_of, train_loader
from shufflenet_fn.data.native.choose import choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.schedule import rank_batch_size
from shufflenet_fn.run import build
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn.training.step import Examples

ENDLESS = 10**7
"""Batches of a loader that never comes to its end."""


@contextmanager
def our_batches(
    settings: TrainSettings, *, threads: int, rank: int = 0, world_size: int = 1
) -> Iterator[Iterator[Examples]]:
    """The endless batches of ``settings.data`` on the CPU, each valid until the next is asked for.

    Raises:
        UsageError: there is no such data, or too little for a batch.
    """
    samples = open_split(settings.data or "", "train")
    transform, _ = build.build_transforms(settings)
    layout = Layout(rank_batch_size(settings.batch_size, world_size), settings.image_size)
    ahead = prefetch_of(threads)
    feed = DeviceFeed(torch.device("cpu"), layout, ahead=ahead)
    with train_loader(
        samples,
        transform,
        seed=settings.seed,
        global_batch=settings.batch_size,
        rank=rank,
        world_size=world_size,
        stop_step=ENDLESS,
        threads=threads,
        prefetch=ahead,
        buffers=feed.ready(),
        native=choose_image_reader(settings.image_reader).reader,
    ) as batches:
        yield map(feed, batches)
