"""The training loader with policy, erasing, mixup, cutmix and repeats: the same bytes in any cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shufflenet_fn.data.augment import RandAugment, RandomErasing, SampleAugmentation
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.folder import open_train_val
from shufflenet_fn.data.loader import train_loader
from shufflenet_fn.data.mixing import Mixing, mix_images
from shufflenet_fn.data.transforms import TrainTransform
from shufflenet_fn.training.losses import Mix
from shufflenet_fn_backends.support.errors import UsageError

STEPS = 6  # of 8 from 23 images: 2 steps an epoch, 3 epochs
AUGMENT = SampleAugmentation(RandAugment(), RandomErasing(0.5))
MIXING = Mixing(mixup=0.4, cutmix=1.0)
EVERYTHING = {"augment": AUGMENT, "mixing": MIXING, "repeats": 2}


@pytest.fixture(scope="module")
def folder(photo_root: Path) -> Dataset:
    return open_train_val(photo_root)[0]


@pytest.fixture(scope="module")
def expected(folder: Dataset) -> list[Batch]:
    """Everything on, read by one rank in the calling thread."""
    return read(folder, threads=0, **EVERYTHING)


def read(folder: Dataset, **options: Any) -> list[Batch]:
    settings = {"seed": 5, "global_batch": 8, "stop_step": STEPS, **options}
    with train_loader(folder, TrainTransform(24), **settings) as batches:
        return list(batches)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one[:3], other[:3]))
        assert isinstance(one.mix, Mix) and isinstance(other.mix, Mix)
        assert all(map(torch.equal, one.mix, other.mix))


def joined(parts: tuple[Batch, ...]) -> Batch:
    """The global batch, of which each rank has read a part."""
    mixes = [part.mix for part in parts if isinstance(part.mix, Mix)]
    assert len({mix.weight.item() for mix in mixes}) == 1
    images, labels, indices = (torch.cat(leaves) for leaves in zip(*(p[:3] for p in parts), strict=True))
    mix = Mix(torch.cat([mix.partners for mix in mixes]), mixes[0].weight)
    return Batch(images, labels, indices, mix)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_do_not_matter(folder: Dataset, expected: list[Batch], world_size: int) -> None:
    ranks = [read(folder, rank=rank, world_size=world_size, **EVERYTHING) for rank in range(world_size)]
    assert_equal([joined(parts) for parts in zip(*ranks, strict=True)], expected)


@pytest.mark.parametrize(("start", "threads"), [(0, 3), (1, 1), (3, 2), (5, 0)])
def test_any_threads_from_any_step(folder: Dataset, expected: list[Batch], start: int, threads: int) -> None:
    found = read(folder, threads=threads, start_step=start, **EVERYTHING)
    assert_equal(found, expected[start:])


def test_a_batch_is_its_plain_images_mixed(folder: Dataset, expected: list[Batch]) -> None:
    plain = read(folder, **{**EVERYTHING, "mixing": None})
    kinds = set()
    for step, (batch, before) in enumerate(zip(expected, plain, strict=True)):
        assert before.mix == ()
        blend = MIXING.draw(seed=5, step=step, height=24, width=24)
        kinds.add(blend.box is None)
        images = before.images.permute(0, 2, 3, 1).numpy().copy()
        mix_images(images, blend)
        np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), images)
        assert isinstance(batch.mix, Mix)
        assert torch.equal(batch.labels, before.labels)
        assert batch.mix.partners.tolist() == [int(before.labels[i ^ 1]) for i in range(8)]
        assert batch.mix.weight.item() == pytest.approx(blend.weight)
        assert (batch.mix.partners.dtype, batch.mix.weight.dtype) == (torch.int64, torch.float32)
    assert kinds == {True, False}, "these steps do not try both kinds"


def test_augmentation_follows_crop_jitter_and_flip(folder: Dataset) -> None:
    plain, augmented = read(folder), read(folder, augment=AUGMENT)
    for step, (before, batch) in enumerate(zip(plain, augmented, strict=True)):
        images = before.images.permute(0, 2, 3, 1).numpy().copy()
        for image, index in zip(images, before.indices.tolist(), strict=True):
            AUGMENT(image, seed=5, epoch=step // 2, index=index)
        np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), images)


def test_repeats_show_a_sample_in_different_crops(folder: Dataset) -> None:
    once = {
        int(index): image
        for batch in read(folder, stop_step=2)
        for index, image in zip(batch.indices, batch.images, strict=True)
    }
    for batch in read(folder, stop_step=2, repeats=2):
        first, second = batch.images.chunk(2)
        samples, again = batch.indices.chunk(2)
        assert torch.equal(samples, again)
        assert len(set(samples.tolist())) == 4
        for index, image, other in zip(samples, first, second, strict=True):
            # The first showing is the one of a run without repeats.
            assert torch.equal(image, once[int(index)])
            assert not torch.equal(image, other)


@pytest.mark.parametrize(("batch", "world_size"), [(6, 2), (5, 1)])
def test_mixing_needs_pairs(folder: Dataset, batch: int, world_size: int) -> None:
    with pytest.raises(UsageError, match=f"a batch of {batch} over {world_size} devices"):
        read(folder, global_batch=batch, world_size=world_size, mixing=MIXING)
    read(folder, global_batch=batch, world_size=world_size, stop_step=1)
