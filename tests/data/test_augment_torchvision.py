"""Policies, erasing and cutmix against torchvision's transforms v2, its PIL kernels in particular."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shufflenet_fn.data.augment import (
    BINS,
    ERASING_DRAWS,
    Operation,
    Space,
    apply_operations,
    erasing_box,
    rand_space,
    trivial_wide_space,
)
from shufflenet_fn.data.decode import Box
from shufflenet_fn.data.mixing import Blend, cut_box, mix_images
from shufflenet_fn.data.randomness import sample_rng

from .conftest import Array

pytest.importorskip("torchvision")

from torchvision.transforms import v2

Picture = Callable[..., Array]
PEERS = [
    pytest.param(trivial_wide_space(), v2.TrivialAugmentWide, id="trivial"),
    pytest.param(rand_space(), v2.RandAugment, id="rand"),
]


def tables(space: Space, height: int, width: int) -> dict[str, tuple[list[float] | None, bool]]:
    return {
        name: (None, False) if entry is None else (list(entry.table(height, width)), entry.signed)
        for name, entry in space.items()
    }


@pytest.mark.parametrize(("space", "peer"), PEERS)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (33, 60)])
def test_magnitudes_are_the_same_numbers(space: Space, peer: Any, height: int, width: int) -> None:
    theirs = {}
    for name, (table, signed) in peer._AUGMENTATION_SPACE.items():
        found = table(BINS, height, width)
        theirs[name] = (None if found is None else [float(value) for value in found], signed)
    assert tables(space, height, width) == theirs


def torchvision_applies(peer: Any, image: Array, operation: Operation) -> Array:
    transform = peer()
    result = transform._apply_image_or_video_transform(
        Image.fromarray(image),
        operation.name,
        operation.magnitude,
        interpolation=transform.interpolation,
        fill=transform._fill,
    )
    return np.asarray(result)


@pytest.mark.parametrize(("space", "peer"), PEERS)
@pytest.mark.parametrize("name", list(rand_space()))
def test_pixels_are_the_same(picture: Picture, space: Space, peer: Any, name: str) -> None:
    source = picture(48, 60)
    entry = space[name]
    magnitudes = [0.0] if entry is None else entry.table(48, 60)
    if entry is not None and entry.signed:
        magnitudes = [*magnitudes, *(-magnitude for magnitude in magnitudes)]
    for magnitude in magnitudes:
        image, operation = source.copy(), Operation(name, magnitude)
        apply_operations(image, [operation])
        np.testing.assert_array_equal(image, torchvision_applies(peer, source, operation))


def test_operations_follow_each_other(picture: Picture) -> None:
    source = picture(40, 40)
    chain = [Operation("Rotate", 20.0), Operation("Identity", 0.0), Operation("Equalize", 0.0)]
    image, theirs = source.copy(), source
    apply_operations(image, chain)
    for operation in chain:
        theirs = torchvision_applies(v2.RandAugment, theirs, operation)
    np.testing.assert_array_equal(image, theirs)


def test_erased_boxes_are_distributed_alike() -> None:
    """Area and aspect, whose means have a standard error of about 0.002 and 0.016."""
    torch.manual_seed(0)
    image, transform = torch.empty(3, 64, 96), v2.RandomErasing(p=1.0)
    theirs = [transform.make_params([image]) for _ in range(2000)]
    ours = [erasing_box(64, 96, sample_rng(0, 0, i).random(ERASING_DRAWS)[1:]) for i in range(2000)]
    their_sides = np.array([(box["h"], box["w"]) for box in theirs], dtype=float)
    our_sides = np.array([(box.height, box.width) for box in ours if box is not None], dtype=float)
    assert len(our_sides) == len(their_sides)
    for measure, error in ((area, 0.002), (aspect, 0.016)):
        for moment in (np.mean, np.std):
            assert abs(moment(measure(our_sides)) - moment(measure(their_sides))) < 5 * error


def area(sides: Array) -> Array:
    shares: Array = sides.prod(axis=1) / (64 * 96)
    return shares


def aspect(sides: Array) -> Array:
    logs: Array = np.log(sides[:, 0] / sides[:, 1])
    return logs


@pytest.mark.parametrize("seed", range(30))
def test_cut_boxes_are_the_same(seed: int) -> None:
    transform = v2.CutMix(alpha=1.0, num_classes=2)
    torch.manual_seed(seed)
    weight = float(transform._dist.sample(()))
    x, y = int(torch.randint(60, (1,))), int(torch.randint(48, (1,)))
    torch.manual_seed(seed)
    theirs = transform.make_params([torch.empty(2, 3, 48, 60)])
    ours = cut_box(48, 60, weight, (y, x))
    assert (ours.left, ours.top, ours.left + ours.width, ours.top + ours.height) == theirs["box"]


def test_a_cut_pair_is_the_same(picture: Picture) -> None:
    images = np.stack([picture(48, 60), picture(48, 60, seed=1)])
    theirs = torchvision_mixes(v2.CutMix, images, {"box": (7, 3, 40, 31), "lam_adjusted": 0.3})
    mix_images(images, Blend(0.3, Box(3, 7, 28, 33)))
    np.testing.assert_array_equal(images, theirs)


def test_a_mixed_pair_is_the_same_but_rounded(picture: Picture) -> None:
    images = np.stack([picture(48, 60), picture(48, 60, seed=1)])
    theirs = torchvision_mixes(v2.MixUp, images, {"lam": 0.3})
    mix_images(images, Blend(0.3, None))
    assert np.abs(images - theirs).max() <= 0.5 + 1e-4


def torchvision_mixes(peer: Any, images: Array, params: dict[str, Any]) -> Array:
    """Both of a pair, in float32."""
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    mixed = peer(num_classes=2).transform(planes, {**params, "labels": None, "batch_size": 2})
    return np.asarray(mixed.permute(0, 2, 3, 1))
