"""Feeding a CPU: batches where they were read, valid until the next one. For NPUs: tests/npu/test_feed.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import eval_loader, prefetch_of, train_loader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.run.build import build_prepare
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn_backends.runtimes.cpu import usable_cores

CPU, LAYOUT, STEPS = torch.device("cpu"), Layout(6, 16), 10


def loader(root: Path, threads: int, **options: Any) -> Any:
    return train_loader(
        open_train_val(root)[0],
        TrainTransform(LAYOUT.size),
        seed=1,
        global_batch=LAYOUT.capacity,
        stop_step=STEPS,
        threads=threads,
        **options,
    )


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_passed_on_without_copy(image_folder: Path, threads: int) -> None:
    feed, places = DeviceFeed(CPU, LAYOUT, ahead=prefetch_of(threads)), set()
    with loader(image_folder, 0) as expected, loader(image_folder, threads, buffers=feed.ready()) as batches:
        for batch, read in zip(batches, expected, strict=True):
            examples = feed(batch)
            assert examples.images.data_ptr() == batch.images.data_ptr()
            assert torch.equal(examples.images, read.images)
            assert torch.equal(examples.labels, read.labels)
            assert feed.ready().held == 1
            places.add(examples.images.data_ptr())
    assert len(places) == min(STEPS, prefetch_of(threads) + 2)


def test_reused_memory_prepares_the_same_images(image_folder: Path) -> None:
    feed = DeviceFeed(CPU, LAYOUT, ahead=2)
    kept, fresh = (build_prepare(torch.channels_last, CPU, reuse=reuse) for reuse in (True, False))
    with loader(image_folder, 1, buffers=feed.ready()) as batches:
        for batch in batches:
            images = feed(batch).images
            assert torch.equal(kept(images), fresh(images))


def test_interrupted_evaluation_starts_over(image_folder: Path) -> None:
    val = open_train_val(image_folder)[1]
    feed = DeviceFeed(CPU, Layout(4, 16), ahead=4)
    for stop in (1, 2, None):
        seen: list[int] = []
        with eval_loader(
            val, EvalTransform(20, 16), batch_size=4, threads=2, buffers=feed.ready()
        ) as batches:
            for number, batch in enumerate(batches):
                assert feed(batch).labels.tolist() == val.labels[batch.indices.numpy()].tolist()
                seen += batch.indices.tolist()
                if number == stop:
                    break
    assert seen == list(range(len(val)))


@pytest.mark.parametrize(
    ("workers", "devices", "threads"), [(0, 1, 0), (0, 8, 0), (1, 8, 1), (7, 2, 4), (4096, 8, 512)]
)
def test_given_thread_count_is_used(workers: int, devices: int, threads: int) -> None:
    assert loader_threads(workers, devices) == threads


def test_the_default_is_a_share_of_the_cores() -> None:
    assert loader_threads(None, 1) == usable_cores()
    assert loader_threads(None, 10_000) == 1


@pytest.mark.parametrize("name", ["ascend-1p", "ascend-8p"])
def test_presets_do_not_set_loader_threads(name: str) -> None:
    """A thread holds two batches: 128 on a laptop would fill its memory."""
    assert "workers" not in PRESETS[name].values
