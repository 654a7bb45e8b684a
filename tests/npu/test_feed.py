"""Batches on an NPU: the bytes that were read, in order, from memory that is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.data.augment.mixing import Mixing
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import train_loader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.transforms import TrainTransform
from shufflenet_fn.run.transfer import UNDER_WAY, DeviceFeed
from shufflenet_fn.training.losses import Mix
from shufflenet_fn.training.step import Examples

LAYOUT, STEPS = Layout(4, 16), 12


def loader(root: Path, mixing: Mixing | None, threads: int, **options: Any) -> Any:
    return train_loader(
        open_train_val(root)[0],
        TrainTransform(LAYOUT.size),
        mixing=mixing,
        seed=3,
        global_batch=LAYOUT.capacity,
        stop_step=STEPS,
        threads=threads,
        **options,
    )


def assert_on_device(examples: Examples, batch: Batch) -> None:
    assert examples.images.device.type == examples.labels.device.type == "npu"
    assert torch.equal(examples.images.cpu(), batch.images)
    assert torch.equal(examples.labels.cpu(), batch.labels)
    if not batch.mix:
        assert examples.mix == ()
        return
    assert isinstance(examples.mix, Mix)
    assert torch.equal(examples.mix.partners.cpu(), batch.mix.partners)
    assert float(examples.mix.weight) == float(batch.mix.weight)


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.4)])
@pytest.mark.parametrize("threads", [0, 2])
def test_every_batch_arrives_as_it_was_read(
    npu: Any, image_folder: Path, mixing: Mixing | None, threads: int
) -> None:
    feed = DeviceFeed(torch.device("npu:0"), LAYOUT, ahead=2 * threads)
    for _ in range(2):  # a second loader, as for the next evaluation
        with (
            loader(image_folder, mixing, 0) as expected,
            loader(image_folder, mixing, threads, buffers=feed.ready()) as batches,
        ):
            for batch, read in zip(batches, expected, strict=True):
                assert batch.images.is_pinned()
                assert_on_device(feed(batch), read)


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.4)])
def test_later_uploads_do_not_change_queued_batches(
    npu: Any, image_folder: Path, mixing: Mixing | None
) -> None:
    """The host runs on without looking; what was queued on all batches is read at the end."""
    feed, queued = DeviceFeed(torch.device("npu:0"), LAYOUT, ahead=4), []
    with loader(image_folder, mixing, 2, buffers=feed.ready()) as batches:
        for batch in batches:
            examples = feed(batch)
            queued.append([part.float().sum() for part in parts_of(examples)])
    with loader(image_folder, mixing, 0) as batches:
        expected = [[float(part.float().sum()) for part in parts_of(batch)] for batch in batches]
    assert [[float(one) for one in sums] for sums in queued] == expected
    assert len(queued) > 2 * UNDER_WAY


def parts_of(batch: Batch | Examples) -> tuple[torch.Tensor, ...]:
    """Images and labels, the partners' labels and their weight where there are any."""
    return batch.images, batch.labels, *(batch.mix or ())


def test_short_batch_uses_start_of_memory(npu: Any) -> None:
    feed = DeviceFeed(torch.device("npu:0"), LAYOUT, ahead=2)
    buffers = feed.ready()
    buffers.start(0)
    for number, count in enumerate((4, 1, 3, 0, 2)):
        with buffers.writing(number, lambda: False) as memory:
            parts = LAYOUT.parts(memory, count)
            parts.images.fill_(number + 1)
            parts.labels.fill_(number)
        batch = Batch(parts.images, parts.labels, torch.zeros(count, dtype=torch.int64))
        assert_on_device(feed(batch), batch)
