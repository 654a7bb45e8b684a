"""The data path against torchvision as the oracle.

Gathered in one file, because torchvision cannot be imported beside every build of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shufflenet_fn.data import geometry
from shufflenet_fn.data import transforms as own_transforms
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
from shufflenet_fn.data.device_ops import IMAGENET_MEAN, IMAGENET_STD, normalize
from shufflenet_fn.data.folder import open_image_folder
from shufflenet_fn.data.formats import IMAGE_EXTENSIONS
from shufflenet_fn.data.mixing import Blend, cut_box, mix_images
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform

from .conftest import Array, WriteTree

pytest.importorskip("torchvision")

from torchvision import datasets, transforms
from torchvision.transforms import InterpolationMode, functional, v2

Picture = Callable[..., Array]
NESTED = {
    "train/b/2.jpg": b"",
    "train/b/10.JPEG": b"",
    "train/b/sub/1.png": b"",
    "train/b/sub-a/1.png": b"",
    "train/b/sub/deep/0.webp": b"",
    "train/b/zz.tiff": b"",
    "train/b/notes.txt": b"",
    "train/B/1.jpg": b"",
    "train/a a/x.jpg": b"",
    "train/readme.md": b"",
}


def test_extensions() -> None:
    assert IMAGE_EXTENSIONS == datasets.folder.IMG_EXTENSIONS


def test_folder_order_and_labels(tree: WriteTree) -> None:
    root = tree(NESTED)
    ours = open_image_folder(root, "train")
    theirs = datasets.ImageFolder(str(root / "train"))
    assert list(ours.classes) == theirs.classes
    assert [str(ours.path(i)) for i in range(len(ours))] == [path for path, _ in theirs.samples]
    assert ours.labels.tolist() == theirs.targets
    assert ours.labels.dtype == np.int64
    assert not ours.labels.flags.writeable


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (64, 64), (30, 400), (400, 30), (7, 5)]
)
def test_crop_box_algorithm(monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    """The same uniform draws, fed to torchvision in the order it asks, give the same box."""
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    for seed in range(40):
        draws = np.random.default_rng(seed).random(geometry.CROP_DRAWS)
        ours = geometry.random_resized_crop_box(height, width, scale=scale, ratio=ratio, draws=draws)
        uniform, randint = _fed_from(draws)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "uniform_", uniform)
            patch.setattr(torch, "randint", randint)
            # In float64, as ours: torchvision's float32 logarithms could round a side differently.
            patch.setattr(torch, "log", lambda x: torch.tensor(np.log(ratio)))
            theirs = transforms.RandomResizedCrop.get_params(
                Image.new("RGB", (width, height)), list(scale), list(ratio)
            )
        assert tuple(ours) == tuple(theirs), f"seed {seed}"


def _fed_from(draws: Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Stand-ins for ``Tensor.uniform_`` and ``torch.randint`` that take their numbers from draws."""
    uniforms, corners = iter(draws[:-2].tolist()), iter(draws[-2:].tolist())

    def uniform(tensor: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
        return torch.tensor([low + next(uniforms) * (high - low)], dtype=torch.float64)

    def randint(low: int, high: int, size: object) -> torch.Tensor:
        return torch.tensor([int(low + next(corners) * (high - low))])

    return uniform, randint


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.8, 1.0, 1.2, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter(picture: Picture, name: str, factor: float) -> None:
    image = picture(40, 50)
    theirs = getattr(functional, f"adjust_{name}")(Image.fromarray(image), factor)
    ours = image.copy()
    own_transforms.adjust(ours, name[0], factor)
    # Pillow truncates where OpenCV rounds; a grey level of difference is then scaled by the factor.
    assert abs(ours.astype(int) - np.asarray(theirs)).max() <= (2 if name == "saturation" else 1)


def test_jitter_draws_give_torchvisions_factors_and_order(picture: Picture) -> None:
    image = picture(40, 50)
    for code, order in enumerate(["bcs", "bsc", "cbs", "csb", "sbc", "scb"]):
        ours = image.copy()
        own_transforms.color_jitter(ours, 0.2, np.array([code / 6 + 0.01, 0.0, 0.75, 1.0]))
        theirs = Image.fromarray(image)
        for letter in order:
            name = {"b": "brightness", "c": "contrast", "s": "saturation"}[letter]
            factor = {"b": 0.8, "c": 1.1, "s": 1.2}[letter]
            theirs = getattr(functional, f"adjust_{name}")(theirs, factor)
        assert abs(ours.astype(int) - np.asarray(theirs)).max() <= 4


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (257, 256), (256, 300), (100, 150), (900, 1201)]
)
def test_eval_geometry(height: int, width: int) -> None:
    """Sizes and offsets agree: a coordinate ramp comes out within a pixel's rounding."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    ramp = np.stack([255 * rows / height, 255 * columns / width, 0 * rows], axis=2)
    image = ramp.round().astype(np.uint8)
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = np.asarray(theirs(Image.fromarray(image))).astype(int)
    ours = EvalTransform(256, 224)(image).astype(int)
    assert ours.shape == expected.shape == (224, 224, 3)
    assert abs(ours - expected).max() <= 1


@pytest.mark.parametrize("height", range(225, 260, 3))
def test_centre_crop_offsets(height: int) -> None:
    image = np.arange(height * 240 * 3, dtype=np.int64).reshape(height, 240, 3).astype(np.uint8)
    expected = np.asarray(transforms.CenterCrop(224)(Image.fromarray(image)))
    np.testing.assert_array_equal(geometry.crop(image, geometry.centre_box(height, 240, 224)), expected)


@pytest.mark.parametrize("source", [(375, 500), (280, 300), (120, 150), (1200, 900), (300, 90)])
def test_resize_is_torchvisions_to_the_bit(picture: Picture, source: tuple[int, int]) -> None:
    """Of uint8 tensors in channels_last memory, where torchvision takes the same kernel of torch."""
    image = picture(*source, seed=3)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    theirs = v2.functional.resize(tensor, [224, 224], InterpolationMode.BILINEAR, antialias=True)
    np.testing.assert_array_equal(geometry.resize(image, 224, 224), theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize(memory_format: torch.memory_format) -> None:
    images = torch.arange(2 * 3 * 16 * 16).view(2, 3, 16, 16).to(torch.uint8)
    images = images.contiguous(memory_format=memory_format)
    oracle = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    expected = torch.stack([oracle(image.permute(1, 2, 0).numpy()) for image in images])
    ours = normalize(images)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert ours.is_contiguous(memory_format=memory_format)


# ---- policies, erasing and cutmix against transforms v2, its PIL kernels in particular ----

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


@pytest.mark.parametrize(
    ("peer", "params", "blend", "within"),
    [
        (v2.CutMix, {"box": (7, 3, 40, 31), "lam_adjusted": 0.3}, Blend(0.3, Box(3, 7, 28, 33)), 0.0),
        (v2.MixUp, {"lam": 0.3}, Blend(0.3, None), 0.5 + 1e-4),  # rounded
    ],
    ids=["cutmix", "mixup"],
)
def test_a_mixed_pair_is_the_same(
    picture: Picture, peer: Any, params: dict[str, Any], blend: Blend, within: float
) -> None:
    images = np.stack([picture(48, 60), picture(48, 60, seed=1)])
    theirs = torchvision_mixes(peer, images, params)
    mix_images(images, blend)
    assert np.abs(images - theirs).max() <= within


def torchvision_mixes(peer: Any, images: Array, params: dict[str, Any]) -> Array:
    """Both of a pair, in float32."""
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    mixed = peer(num_classes=2).transform(planes, {**params, "labels": None, "batch_size": 2})
    return np.asarray(mixed.permute(0, 2, 3, 1))
