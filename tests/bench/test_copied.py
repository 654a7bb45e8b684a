"""Channels that split and shuffle copy in a training step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.copied import COPYING, copied_per_step
from shufflenet_fn.model.config import ARCHITECTURES, ShuffleNetConfig, get_config
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.routed import BACKEND as ROUTED
from tests.model.support import one_thread

__all__ = ["one_thread"]

SIZE = 64

names = pytest.mark.parametrize("name", ARCHITECTURES)
formats = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)


def stages(config: ShuffleNetConfig) -> list[tuple[int, int, int]]:
    """Units, channels and pixels of each stage."""
    pixels = [(SIZE // reduction) ** 2 for reduction in (8, 16, 32)]
    return list(zip(config.stage_repeats, config.stage_channels[1:4], pixels, strict=True))


@names
@formats
def test_reference_copies_four_times_the_units_channels(
    name: str, memory_format: torch.memory_format
) -> None:
    """By hand: cat and shuffle, both forward and backward; no split behind a downsampling unit."""
    config = get_config(name, num_classes=5)
    expected = sum(pixels * channels * (4 * (units - 1) + 3) for units, channels, pixels in stages(config))
    found = copied_per_step(config, get_backend("reference"), image_size=SIZE, memory_format=memory_format)
    assert found.features == expected and found.parameters == 0
    assert sum(found.by_operator.values()) == expected


@names
@formats
def test_routed_copies_at_most_three_tenths_of_it(name: str, memory_format: torch.memory_format) -> None:
    config = get_config(name, num_classes=5)
    found, reference = (
        copied_per_step(config, get_backend(b), image_size=SIZE, memory_format=memory_format)
        for b in ("routed", "reference")
    )
    assert 0 < found.features <= 0.3 * reference.features
    assert found.parameters == 0
    # By hand: what a branch reads, once, and the stage as a whole, once; every gradient that comes back
    # in pieces, once, which the last branch's does not. The rest is cuts deeper than those made at once.
    least = sum(
        pixels * channels * ((units - 1) + 2 + (units - 2) + 2) // 2
        for units, channels, pixels in stages(config)
    )
    assert least <= found.features <= 1.02 * least


def test_in_canonical_order_weights_are_permuted_as_well() -> None:
    config = get_config("x0_5", num_classes=5)
    twin = copied_per_step(config, ROUTED, image_size=SIZE)
    canonical = copied_per_step(config, replace(ROUTED, permuted=None), image_size=SIZE)
    assert canonical.features == twin.features
    assert canonical.parameters > 100_000


def test_ratios_do_not_depend_on_image_size() -> None:
    config = get_config("x0_5", num_classes=5)
    small, large = (copied_per_step(config, ROUTED, image_size=size) for size in (32, 96))
    assert large.features == 9 * small.features


class _Written(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operators made a feature map that is not a view of an argument."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [returned for returned in func._schema.returns if returned.alias_info is None]
        if made and isinstance(out, torch.Tensor) and out.ndim >= 4:
            self.names.add(func._schema.name)
        return out


@pytest.mark.parametrize("backend", ["reference", "native", "gather", "routed"])
def test_no_operator_that_copies_is_overlooked(backend: str) -> None:
    """Every other operator that makes a feature map computes something."""
    config = ShuffleNetConfig((2, 4, 2), (8, 8, 16, 16, 32), num_classes=5)
    copied_per_step(config, get_backend(backend), image_size=32)  # makes what is made once
    with _Written() as written:
        copied_per_step(config, get_backend(backend), image_size=32)
    computing = {
        "aten::convolution",
        "aten::threshold_backward",
        "aten::max_pool2d_with_indices_backward",
        "aten::add",  # of the gradients of a map that two read
        "aten::div",  # backward of the mean over pixels
        "aten::_unsafe_view",  # a view of what `clone` made, though its schema does not say so
    }
    start = {"aten::randn", "aten::empty"}  # images and weights
    copying = written.names - computing - start
    assert copying and copying <= COPYING
