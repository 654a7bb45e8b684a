"""The loaders: the same bytes for any threads, ranks and first step; exact evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shufflenet_fn.data.augment import RandAugment, RandomErasing, SampleAugmentation
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.buffers import BatchBuffers, Layout
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.decode import decode_rgb
from shufflenet_fn.data.folder import ImageFolder, open_train_val
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.mixing import Mixing, mix_images
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.training.losses import Mix
from shufflenet_fn_backends.support.errors import UsageError, UserError

from .conftest import Array

STEPS = 12  # of 8 from 23 images: 2 steps an epoch, 6 epochs
TRANSFORM = TrainTransform(24)
AUGMENT = SampleAugmentation(RandAugment(), RandomErasing(0.5))
MIXING = Mixing(mixup=0.4, cutmix=1.0)
PLAIN: dict[str, Any] = {}
EVERYTHING: dict[str, Any] = {"augment": AUGMENT, "mixing": MIXING, "repeats": 2}


@pytest.fixture(scope="module")
def folder(photo_root: Path) -> ImageFolder:
    return open_train_val(photo_root)[0]


@pytest.fixture(scope="module")
def val(photo_root: Path) -> ImageFolder:
    return open_train_val(photo_root)[1]


@pytest.fixture(scope="module")
def plain(folder: ImageFolder) -> list[Batch]:
    """The whole run read by one rank in the calling thread."""
    return read(folder, threads=0)


@pytest.fixture(scope="module", params=[PLAIN, EVERYTHING], ids=["plain", "everything"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


@pytest.fixture(scope="module")
def expected(folder: ImageFolder, options: dict[str, Any]) -> list[Batch]:
    """As ``plain``, with the options."""
    return read(folder, threads=0, **options)


def read(folder: Dataset, **options: Any) -> list[Batch]:
    settings = {"seed": 5, "global_batch": 8, "stop_step": STEPS, **options}
    with train_loader(folder, TRANSFORM, **settings) as batches:
        return list(batches)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.mix) == len(other.mix)
        for left, right in zip((*one[:3], *one.mix), (*other[:3], *other.mix), strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)


def joined(parts: tuple[Batch, ...]) -> Batch:
    """The global batch, of which each rank has read a part."""
    images, labels, indices = (torch.cat(leaves) for leaves in zip(*(p[:3] for p in parts), strict=True))
    mixes = [part.mix for part in parts if isinstance(part.mix, Mix)]
    assert len({mix.weight.item() for mix in mixes}) <= 1
    mix = Mix(torch.cat([mix.partners for mix in mixes]), mixes[0].weight) if mixes else ()
    return Batch(images, labels, indices, mix)


def pixels(batch: Batch) -> Array:
    return batch.images.permute(0, 2, 3, 1).numpy()


def test_batch_is_made_of_its_samples(folder: ImageFolder, plain: list[Batch]) -> None:
    for step in (0, 1, 7):
        images, labels, indices, mix = plain[step]
        assert mix == ()
        assert (images.shape, images.dtype) == ((8, 3, 24, 24), torch.uint8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == indices.shape == (8,)
        assert labels.dtype == indices.dtype == torch.int64
        assert labels.tolist() == folder.labels[indices.numpy()].tolist()
        for image, index in zip(pixels(plain[step]), indices.tolist(), strict=True):
            source = decode_rgb(folder.read(index).data, path="x")
            np.testing.assert_array_equal(image, TRANSFORM(source, sample_rng(5, step // 2, index)))


@pytest.mark.parametrize(("start", "threads"), [(0, 0), (0, 3), (5, 0), (5, 3)])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_do_not_matter(
    folder: ImageFolder,
    expected: list[Batch],
    options: dict[str, Any],
    world_size: int,
    threads: int,
    start: int,
) -> None:
    cut = {"threads": threads, "world_size": world_size, "start_step": start}
    ranks = [read(folder, rank=rank, **cut, **options) for rank in range(world_size)]
    assert_equal([joined(parts) for parts in zip(*ranks, strict=True)], expected[start:])


@pytest.mark.parametrize("start", range(STEPS + 1))
def test_starting_at_any_step(
    folder: ImageFolder, expected: list[Batch], options: dict[str, Any], start: int
) -> None:
    assert_equal(read(folder, threads=start % 3, start_step=start, **options), expected[start:])


def test_starting_far_into_a_run_reads_nothing_before(folder: ImageFolder) -> None:
    start = 10**9
    assert len(read(folder, threads=0, start_step=start, stop_step=start + 1)) == 1


def test_augmentation_differs_between_epochs(plain: list[Batch]) -> None:
    views = [
        image.numpy().tobytes()
        for batch in plain
        for image, index in zip(batch.images, batch.indices, strict=True)
        if int(index) == int(plain[0].indices[0])
    ]
    assert len(set(views)) == len(views) > 1


def test_a_batch_is_its_plain_images_mixed(folder: ImageFolder) -> None:
    kinds = set()
    unmixed = read(folder, **{**EVERYTHING, "mixing": None})
    for step, (batch, before) in enumerate(zip(read(folder, **EVERYTHING), unmixed, strict=True)):
        blend = MIXING.draw(seed=5, step=step, height=24, width=24)
        kinds.add(blend.box is None)
        images = pixels(before).copy()
        mix_images(images, blend)
        np.testing.assert_array_equal(pixels(batch), images)
        assert before.mix == () and isinstance(batch.mix, Mix)
        assert torch.equal(batch.labels, before.labels)
        assert batch.mix.partners.tolist() == [int(before.labels[i ^ 1]) for i in range(8)]
        assert batch.mix.weight.item() == pytest.approx(blend.weight)
        assert (batch.mix.partners.dtype, batch.mix.weight.dtype) == (torch.int64, torch.float32)
    assert kinds == {True, False}, "these steps do not try both kinds"


def test_augmentation_follows_crop_jitter_and_flip(folder: ImageFolder, plain: list[Batch]) -> None:
    augmented = read(folder, augment=AUGMENT)
    for step, (before, batch) in enumerate(zip(plain, augmented, strict=True)):
        images = pixels(before).copy()
        for image, index in zip(images, before.indices.tolist(), strict=True):
            AUGMENT(image, seed=5, epoch=step // 2, index=index)
        np.testing.assert_array_equal(pixels(batch), images)


def test_repeats_show_a_sample_in_different_crops(folder: ImageFolder, plain: list[Batch]) -> None:
    once = {
        int(index): image
        for batch in plain[:2]
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


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("threads", [0, 2])
def test_every_sample_is_evaluated_once(
    val: ImageFolder, world_size: int, batch_size: int, threads: int
) -> None:
    seen: list[int] = []
    transform = EvalTransform(28, 24)
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size, "threads": threads}
        for batch in eval_loader(val, transform, batch_size=batch_size, **share):
            images, labels, indices, _ = batch
            assert 1 <= len(indices) <= batch_size
            assert images.shape == (len(indices), 3, 24, 24)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.tolist() == val.labels[indices.numpy()].tolist()
            for image, index in zip(pixels(batch), indices.tolist(), strict=True):
                source = decode_rgb(val.read(index).data, path="x")
                np.testing.assert_array_equal(image, transform(source))
            seen += indices.tolist()
    assert seen == list(range(11))


@pytest.mark.parametrize(("threads", "slots"), [(0, None), (2, None), (1, 2), (3, 2)])
def test_bad_file_is_named_in_its_place(
    photo_root: Path, tmp_path: Path, plain: list[Batch], threads: int, slots: int | None
) -> None:
    shutil.copytree(photo_root, tmp_path / "copy")
    folder = open_train_val(tmp_path / "copy")[0]
    bad = int(plain[1].indices[3])
    folder.path(bad).write_bytes(b"not a picture")
    first = next(k for k, batch in enumerate(plain) if bad in batch.indices.tolist())
    buffers = BatchBuffers(slots, Layout(8, 24), page_locked=False) if slots else None
    settings = {"seed": 5, "global_batch": 8, "stop_step": STEPS, "threads": threads}
    loader = train_loader(folder, TRANSFORM, buffers=buffers, **settings)  # type: ignore[arg-type]
    good = 0
    with pytest.raises(UserError, match=rf"cannot decode image {folder.path(bad)}: "):
        for batch in loader:
            assert_equal([batch], [plain[good]])
            good += 1
            if buffers is not None:
                buffers.take()
                buffers.release()
    assert good == first
    assert list(loader) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, "reading threads must be at least 0, got -1"),
        ({"start_step": 13}, "got start_step=13 and stop_step=12"),
        ({"start_step": -1}, "got start_step=-1"),
        ({"global_batch": 24}, "has 23 images, fewer than one global batch of 24"),
        ({"world_size": 3}, "does not divide by 3 devices. Pass --batch-size 6 or 9"),
        ({"rank": 1}, "rank 1 is not among the 1 ranks"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"mixing": MIXING, "global_batch": 6, "world_size": 2}, "a batch of 6 over 2 devices"),
        ({"mixing": MIXING, "global_batch": 5}, "a batch of 5 over 1 devices"),
        (
            {"buffers": BatchBuffers(2, Layout(8, 32), page_locked=False)},
            "batches of 8 images of 32 pixels a side, but .* 8 of 24",
        ),
    ],
)
def test_train_loader_validates_at_once(folder: ImageFolder, options: dict[str, Any], message: str) -> None:
    settings = {"seed": 5, "global_batch": 8, "stop_step": STEPS, "threads": 0, **options}
    with pytest.raises(UsageError, match=message):
        train_loader(folder, TRANSFORM, **settings)


def test_eval_loader_validates_at_once(val: ImageFolder) -> None:
    with pytest.raises(UsageError, match="evaluation batch size must be at least 1, got 0"):
        eval_loader(val, EvalTransform(), batch_size=0)
    with pytest.raises(UsageError, match="rank 2 is not among the 2 ranks"):
        eval_loader(val, EvalTransform(), batch_size=4, rank=2, world_size=2)
