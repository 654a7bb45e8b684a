"""The list of layers, which initialisation, conversion and counting share. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from shufflenet_fn.model.config import ShuffleNetConfig

REDUCTION: Final = 32
"""Pixels of the image along an axis for each of the last feature map, rounded up: five strides of 2."""


class ConvBN(NamedTuple):
    """A bias-free convolution and the batch norm that follows it.

    ``path`` is the path of ``{"conv": {"weight"}, "bn": {"weight", "bias"}}`` in ``params`` and of ``{"bn":
    {"mean", "var"}}`` in ``batch_stats``. ``torchvision`` has the names of both modules in torchvision.
    """

    path: tuple[str, ...]
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    torchvision: tuple[str, str]

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight, in OIHW layout."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)


def conv_layers(config: ShuffleNetConfig) -> Iterator[ConvBN]:
    """Yield every convolution of the network in forward order (56 for the named architectures)."""
    stem, *stages, last = config.stage_channels
    yield ConvBN(("conv1",), 3, stem, 3, 2, 1, ("conv1.0", "conv1.1"))
    channels = stem
    for stage, (repeats, width) in enumerate(zip(config.stage_repeats, stages, strict=True), start=2):
        yield from _downsampling_unit(f"stage{stage}", channels, width // 2)
        for unit in range(1, repeats):
            path = (f"stage{stage}", str(unit))
            yield from _branch2(path, width // 2, width // 2, stride=1)
        channels = width
    yield ConvBN(("conv5",), channels, last, 1, 1, 1, ("conv5.0", "conv5.1"))


def fewest_values(images: int, height: int, width: int) -> int:
    """Return the values per channel that the last batch norms see, which see fewest."""
    return images * -(-height // REDUCTION) * -(-width // REDUCTION)


def _downsampling_unit(stage: str, in_channels: int, half: int) -> Iterator[ConvBN]:
    path = (stage, "0")
    prefix = f"{stage}.0.branch1"
    yield ConvBN(
        (*path, "branch1", "dw"), in_channels, in_channels, 3, 2, in_channels, (f"{prefix}.0", f"{prefix}.1")
    )
    yield ConvBN((*path, "branch1", "pw"), in_channels, half, 1, 1, 1, (f"{prefix}.2", f"{prefix}.3"))
    yield from _branch2(path, in_channels, half, stride=2)


def _branch2(path: tuple[str, str], in_channels: int, half: int, *, stride: int) -> Iterator[ConvBN]:
    prefix = f"{'.'.join(path)}.branch2"
    at = (*path, "branch2")
    yield ConvBN((*at, "pw1"), in_channels, half, 1, 1, 1, (f"{prefix}.0", f"{prefix}.1"))
    yield ConvBN((*at, "dw"), half, half, 3, stride, half, (f"{prefix}.3", f"{prefix}.4"))
    yield ConvBN((*at, "pw2"), half, half, 1, 1, 1, (f"{prefix}.5", f"{prefix}.6"))
