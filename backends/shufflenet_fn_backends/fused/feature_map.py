"""A feature map of backend ``cpu``: parts with normalisations still to be applied, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from shufflenet_fn_backends import routing
from shufflenet_fn_backends.fused.autograd import call
from shufflenet_fn_backends.fused.memory import AFFINE, RELU
from shufflenet_fn_backends.fused.on_parts import Materialize

CUTS_AHEAD = 3
"""Splits whose cuts are made at once (``routing.split``)."""


class Part(NamedTuple):
    """A range of channels of what an operator made.

    ``z``: (N, C, H, W). ``affine``: mean, scale and beta (3, C) of a normalisation still to be applied, or
    ``None``. ``relu``: after that. ``moments``: mean and variance (C,) of z, where its convolution gathered
    them.
    """

    z: Tensor
    affine: Tensor | None = None
    relu: bool = False
    moments: tuple[Tensor, Tensor] | None = None

    @property
    def flag(self) -> int:
        """What the kernels are told of it."""
        return (AFFINE if self.affine is not None else 0) | (RELU if self.relu else 0)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the kernels are given of it."""
        return (self.z,) if self.affine is None else (self.z, self.affine)


@dataclass(frozen=True)
class FeatureMap:
    """Parts side by side, and which logical channel each of their channels is."""

    parts: tuple[Part, ...]
    layout: routing.Layout

    @property
    def flags(self) -> tuple[int, ...]:
        """What the kernels are told of the parts."""
        return tuple(part.flag for part in self.parts)

    @property
    def tensors(self) -> list[Tensor]:
        """What the kernels are given of the parts, one after the other."""
        return [tensor for part in self.parts for tensor in part.tensors]


def single(part: Part) -> FeatureMap:
    """What one operator made, in logical order."""
    return FeatureMap((part,), routing.natural(part.z.shape[1]))


def kernels_take(*tensors: Tensor) -> bool:
    """Whether the kernels are made for these. ``torch.autocast`` chooses among torch's own operators."""
    return not torch.is_autocast_enabled("cpu") and all(
        t.dtype in (torch.float32, torch.bfloat16) and t.device.type == "cpu" for t in tensors
    )


def materialized(part: Part) -> Tensor:
    """The part as a tensor."""
    if not part.flag:
        return part.z
    if kernels_take(part.z):
        return call(Materialize(part.flag), *part.tensors)[0]
    y = part.z
    if part.affine is not None:
        mean, scale, beta = part.affine[:, :, None, None]
        y = ((y - mean) * scale + beta).to(y.dtype)
    return y.relu() if part.relu else y


def take(parts: Sequence[Part], ranges: Sequence[routing.Range]) -> tuple[Part, ...]:
    """The ranges, each part being cut once; every channel is in one of them, in order within a part."""
    cut: dict[int, list[int]] = {}
    for part, start, stop in sorted(ranges):
        cut.setdefault(part, []).append(stop - start)
    pieces = {part: iter(_cut(parts[part], sizes)) for part, sizes in cut.items()}
    found = {item: next(pieces[item.part]) for item in sorted(ranges)}
    return tuple(found[item] for item in ranges)


def _cut(part: Part, sizes: list[int]) -> list[Part]:
    if len(sizes) == 1:
        return [part]
    zs = torch.split(part.z, sizes, 1)
    affines = [None] * len(sizes) if part.affine is None else torch.split(part.affine, sizes, 1)
    return [Part(z, affine, part.relu) for z, affine in zip(zs, affines, strict=True)]
