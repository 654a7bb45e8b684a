"""The feature map of backend ``cpu``: parts with pending normalisations, and their channel order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from shufflenet_fn_backends import routing
from shufflenet_fn_backends.fused.autograd import call
from shufflenet_fn_backends.fused.memory import AFFINE, RELU
from shufflenet_fn_backends.fused.operators import Materialize

CUTS_AHEAD = 3
"""Number of splits whose cuts are made in advance (``routing.split``)."""


class Part(NamedTuple):
    """A range of channels of an operator's result.

    ``z``: (N, C, H, W). ``affine``: mean, scale and beta (3, C) of a pending normalisation, or ``None``.
    ``relu``: whether a ReLU is pending after it.
    """

    z: Tensor
    affine: Tensor | None = None
    relu: bool = False

    @property
    def flag(self) -> int:
        """Flag of the part for the kernels."""
        return (AFFINE if self.affine is not None else 0) | (RELU if self.relu else 0)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of the part for the kernels."""
        return (self.z,) if self.affine is None else (self.z, self.affine)


@dataclass(frozen=True)
class FeatureMap:
    """Parts in sequence, and the canonical order of their channels."""

    parts: tuple[Part, ...]
    layout: routing.Layout

    @property
    def flags(self) -> tuple[int, ...]:
        """Flags of all parts for the kernels."""
        return tuple(part.flag for part in self.parts)

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors of all parts for the kernels, in sequence."""
        return [tensor for part in self.parts for tensor in part.tensors]


def single(part: Part) -> FeatureMap:
    """Return a feature map of one part in canonical order."""
    return FeatureMap((part,), routing.natural(part.z.shape[1]))


def kernels_take(*tensors: Tensor) -> bool:
    """Return whether the kernels support ``tensors``. Under ``torch.autocast``, torch's operators run."""
    return not torch.is_autocast_enabled("cpu") and all(
        t.dtype in (torch.float32, torch.bfloat16) and t.device.type == "cpu" for t in tensors
    )


def materialized(part: Part) -> Tensor:
    """Return the part as a tensor, with its pending normalisation and ReLU applied."""
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
    """Return the ranges as parts. Each part is split once; the ranges must cover each channel once."""
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
