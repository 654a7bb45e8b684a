"""Normalisation where the batch is."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.data.device_ops import IMAGENET_MEAN, IMAGENET_STD, normalize, normalizer
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn_backends.support.errors import UsageError


def batch() -> torch.Tensor:
    values = torch.arange(256).repeat(3, 1).view(1, 3, 16, 16).to(torch.uint8)
    return values.contiguous(memory_format=torch.channels_last)


def test_every_level_is_exact_to_float32() -> None:
    images = batch()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (images.double() - 255 * mean) / (255 * std)
    torch.testing.assert_close(normalize(images).double(), expected, rtol=1e-6, atol=3e-7)
    assert torch.equal(images, batch())


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (batch().float() / 255, r"float32 \("),
        (batch()[0], r"uint8 \(3, "),
        (batch().permute(0, 2, 3, 1), r"uint8 \(\d+, \d+, \d+, 3\)"),
    ],
)
def test_only_pixels_are_normalised(images: torch.Tensor, got: str) -> None:
    with pytest.raises(UsageError, match=rf"must be uint8 of shape \(N, 3, H, W\), but are {got}"):
        normalize(images)


@pytest.mark.parametrize("reader", [None, "python", "native"], ids=["fresh", "reuse", "native"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(4, 3, 9, 7), (1, 3, 1, 1), (2, 3, 5, 1), (3, 3, 32, 32)])
def test_the_order_of_the_memory_changes_no_bit(
    shape: tuple[int, ...], memory_format: torch.memory_format, reader: str | None
) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=memory_format)
    std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
    scale = torch.tensor([1.0 / (255.0 * s) for s in IMAGENET_STD]).view(1, 3, 1, 1)
    bias = torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    native = choose_image_reader(reader).reader if reader else None
    ours = normalizer(reuse=reader is not None, native=native)(images)
    assert torch.equal(ours, images.float().mul(scale).add(bias.view(1, 3, 1, 1)))
    assert ours.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(ours, (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))


def test_memory_is_kept_only_if_asked_for() -> None:
    large, small = batch().repeat(2, 1, 1, 1), batch()
    kept, fresh = normalizer(reuse=True), normalizer()
    first = kept(large)
    assert kept(small).data_ptr() == first.data_ptr()
    assert torch.equal(kept(large), fresh(large))
    one, other = fresh(small), fresh(small)
    assert one.data_ptr() != other.data_ptr()


def test_kept_memory_serves_backward_within_a_step() -> None:
    """As in a step: the result is saved for the gradient, which is taken before the next call."""
    apply, fresh = normalizer(reuse=True), normalizer()
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    for images in (batch(), batch() // 2):
        gradients = [
            torch.autograd.grad(torch.nn.functional.conv2d(f(images), weight).square().sum(), weight)
            for f in (apply, fresh)
        ]
        torch.testing.assert_close(gradients[0], gradients[1])
