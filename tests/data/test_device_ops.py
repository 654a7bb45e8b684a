"""Normalisation where the batch is."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.data.device_ops import IMAGENET_MEAN, IMAGENET_STD, normalize, normalizer


def batch() -> torch.Tensor:
    values = torch.arange(256).repeat(3, 1).view(1, 3, 16, 16).to(torch.uint8)
    return values.contiguous(memory_format=torch.channels_last)


def exact(images: torch.Tensor, mean: object, std: object) -> torch.Tensor:
    mean = torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
    return (images.double() - 255 * mean) / (255 * std)


def test_every_level_is_exact_to_float32() -> None:
    expected = exact(batch(), IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(normalize(batch()).double(), expected, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_is_rounded_once(dtype: torch.dtype) -> None:
    result = normalize(batch(), dtype=dtype)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, normalize(batch()).to(dtype))


def test_own_mean_and_std() -> None:
    mean, std = (0.1, 0.2, 0.3), (1.0, 0.5, 2.0)
    result = normalize(batch(), mean=mean, std=std).double()
    torch.testing.assert_close(result, exact(batch(), mean, std), rtol=1e-6, atol=3e-7)


def test_input_is_untouched_and_normalizer_is_normalize() -> None:
    images = batch()
    apply = normalizer()
    assert torch.equal(apply(images), normalize(images))
    assert torch.equal(apply(images), normalize(images))
    assert torch.equal(images, batch())
