"""The loaders: the same bytes for any threads, ranks and first step; exact evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.decode import decode_rgb
from shufflenet_fn.data.folder import ImageFolder, open_train_val
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import UsageError, UserError

STEPS = 12  # of 8 from 23 images: 2 steps an epoch, 6 epochs
TRANSFORM = TrainTransform(24)


@pytest.fixture(scope="module")
def folders(photo_root: Path) -> tuple[ImageFolder, ImageFolder]:
    return open_train_val(photo_root)


@pytest.fixture(scope="module")
def expected(folders: tuple[ImageFolder, ImageFolder]) -> list[Batch]:
    """The whole run read by one rank in the calling thread."""
    return read_train(folders[0], threads=0)


def read_train(folder: ImageFolder, **options: Any) -> list[Batch]:
    settings = {"seed": 5, "global_batch": 8, "stop_step": STEPS, **options}
    with train_loader(folder, TRANSFORM, **settings) as batches:
        return list(batches)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.mix == other.mix == ()
        for left, right in zip(one[:3], other[:3], strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)


def test_batch_layout(expected: list[Batch]) -> None:
    images, labels, indices, mix = expected[0]
    assert mix == ()
    assert images.shape == (8, 3, 24, 24)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == indices.shape == (8,)
    assert labels.dtype == indices.dtype == torch.int64


def test_batch_is_made_of_its_samples(
    folders: tuple[ImageFolder, ImageFolder], expected: list[Batch]
) -> None:
    folder = folders[0]
    for step in (0, 1, 7):
        for image, label, index in zip(*expected[step][:3], strict=True):
            i = int(index)
            assert int(label) == folder.labels[i]
            source = decode_rgb(folder.read(i).data, path="x")
            augmented = TRANSFORM(source, sample_rng(5, step // 2, i))
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), augmented)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_do_not_matter(
    folders: tuple[ImageFolder, ImageFolder], expected: list[Batch], world_size: int, threads: int, start: int
) -> None:
    ranks = [
        read_train(folders[0], threads=threads, rank=rank, world_size=world_size, start_step=start)
        for rank in range(world_size)
    ]
    joined = [
        Batch(*(torch.cat(parts) for parts in zip(*(part[:3] for part in step), strict=True)))
        for step in zip(*ranks, strict=True)
    ]
    assert_equal(joined, expected[start:])


@pytest.mark.parametrize("start", range(STEPS + 1))
def test_starting_at_any_step(
    folders: tuple[ImageFolder, ImageFolder], expected: list[Batch], start: int
) -> None:
    assert_equal(read_train(folders[0], threads=start % 3, start_step=start), expected[start:])


def test_starting_far_into_a_run_reads_nothing_before(folders: tuple[ImageFolder, ImageFolder]) -> None:
    start = 10**9
    batches = read_train(folders[0], threads=0, start_step=start, stop_step=start + 1)
    assert len(batches) == 1


def test_augmentation_differs_between_epochs(
    folders: tuple[ImageFolder, ImageFolder], expected: list[Batch]
) -> None:
    views = [
        image.numpy().tobytes()
        for batch in expected
        for image, index in zip(batch.images, batch.indices, strict=True)
        if int(index) == int(expected[0].indices[0])
    ]
    assert len(views) > 1
    assert len(set(views)) == len(views)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("threads", [0, 2])
def test_every_sample_is_evaluated_once(
    folders: tuple[ImageFolder, ImageFolder], world_size: int, batch_size: int, threads: int
) -> None:
    val = folders[1]
    assert len(val) == 11
    seen: list[int] = []
    for rank in range(world_size):
        batches = eval_loader(
            val,
            EvalTransform(28, 24),
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            threads=threads,
        )
        for images, labels, indices, _ in batches:
            assert 1 <= len(indices) <= batch_size
            assert images.shape == (len(indices), 3, 24, 24)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.tolist() == val.labels[indices.numpy()].tolist()
            seen += indices.tolist()
    assert seen == list(range(11))


def test_eval_images_are_resized_and_cropped(folders: tuple[ImageFolder, ImageFolder]) -> None:
    val, transform = folders[1], EvalTransform(28, 24)
    for images, _, indices, _ in eval_loader(val, transform, batch_size=4):
        for image, index in zip(images, indices.tolist(), strict=True):
            expected = transform(decode_rgb(val.read(index).data, path="x"))
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("threads", [0, 2])
def test_bad_file_is_named_in_its_place(
    photo_root: Path, tmp_path: Path, expected: list[Batch], threads: int
) -> None:
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(photo_root, root)
    folder = open_train_val(root)[0]
    bad = int(expected[1].indices[3])
    folder.path(bad).write_bytes(b"not a picture")
    first = next(k for k, batch in enumerate(expected) if bad in batch.indices.tolist())
    loader = train_loader(folder, TRANSFORM, seed=5, global_batch=8, stop_step=STEPS, threads=threads)
    good = []
    with pytest.raises(UserError, match=rf"cannot decode image {folder.path(bad)}: "):
        for batch in loader:
            good.append(batch)
    assert_equal(good, expected[:first])
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
    ],
)
def test_train_loader_validates_at_once(
    folders: tuple[ImageFolder, ImageFolder], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_loader(
            folders[0],
            TRANSFORM,
            **{"seed": 5, "global_batch": 8, "stop_step": STEPS, "threads": 0, **options},
        )


def test_eval_loader_validates_at_once(folders: tuple[ImageFolder, ImageFolder]) -> None:
    with pytest.raises(UsageError, match="evaluation batch size must be at least 1, got 0"):
        eval_loader(folders[1], EvalTransform(), batch_size=0)
    with pytest.raises(UsageError, match="rank 2 is not among the 2 ranks"):
        eval_loader(folders[1], EvalTransform(), batch_size=4, rank=2, world_size=2)
