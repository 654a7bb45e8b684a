"""The feature map of ``routed``: parts and the order of their channels, and operations on it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from shufflenet_fn_backends import routing
from shufflenet_fn_backends.routing import Layout
from shufflenet_fn_backends.support.private import mark_constant, outside_transforms, pytree

DEPTH: Final = 4
"""Number of splits whose cuts are made in advance. To cut a tensor at every split would copy its gradient
once per cut. To make all cuts at the first split would give the convolutions many parts of few channels."""

_CHANNEL_AXIS: Final = 1
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Routed:
    """A feature map: ``parts`` are (N, C_i, H, W), concatenated in the order of ``layout``.

    A pytree node with the tensors as leaves and ``layout`` as static context, as ``torch.func`` and
    ``torch.compile`` require.
    """

    parts: tuple[Tensor, ...]
    layout: Layout


pytree.register_pytree_node(
    Routed, lambda x: (list(x.parts), x.layout), lambda parts, layout: Routed(tuple(parts), layout)
)


class _Cuts(NamedTuple):
    """For each part, the sizes of its pieces, and for each piece the half (0 or 1) that it goes to."""

    parts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    layouts: tuple[Layout, Layout]


@mark_constant
def _natural(channels: int) -> Layout:
    return routing.natural(channels)


@mark_constant
def _interleave(
    sizes1: tuple[int, ...], order1: tuple[int, ...], sizes2: tuple[int, ...], order2: tuple[int, ...]
) -> Layout:
    return routing.interleave(Layout(sizes1, order1), Layout(sizes2, order2))


@mark_constant
def _is_natural(order: tuple[int, ...]) -> bool:
    return routing.is_natural(order)


@mark_constant
def inverse_order(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permuted position of each canonical channel."""
    return routing.inverse(order)


@mark_constant
def _cuts(sizes: tuple[int, ...], order: tuple[int, ...]) -> _Cuts:
    return _cached_cuts(Layout(sizes, order))


@lru_cache(4096)
def _cached_cuts(layout: Layout) -> _Cuts:
    first, second = routing.split(layout, depth=DEPTH)
    pieces: list[list[tuple[int, int, int]]] = [[] for _ in layout.sizes]
    for side, half in enumerate((first, second)):
        for part, start, stop in half.ranges:
            pieces[part].append((start, stop - start, side))
    of_parts = (tuple(zip(*sorted(of_part), strict=True)) for of_part in pieces)
    return _Cuts(tuple((sizes, sides) for _, sizes, sides in of_parts), (first.layout, second.layout))


def channel_split(x: Routed | Tensor) -> tuple[Routed, Routed]:
    x = routed(x)
    cuts = _cuts(x.layout.sizes, x.layout.order)
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part, (sizes, sides) in zip(x.parts, cuts.parts, strict=True):
        pieces = torch.split_with_sizes(part, sizes, _CHANNEL_AXIS) if len(sizes) > 1 else (part,)
        for piece, side in zip(pieces, sides, strict=True):
            halves[side].append(piece)
    return (Routed(tuple(halves[0]), cuts.layouts[0]), Routed(tuple(halves[1]), cuts.layouts[1]))


def channel_shuffle(x1: Routed | Tensor, x2: Routed | Tensor) -> Routed:
    x1, x2 = routed(x1), routed(x2)
    layout = _interleave(x1.layout.sizes, x1.layout.order, x2.layout.sizes, x2.layout.order)
    return Routed(x1.parts + x2.parts, layout)


def to_tensor(x: Routed | Tensor) -> Tensor:
    x = routed(x)
    return reordered(concatenated(x), inverse_order(x.layout.order), _CHANNEL_AXIS)


def natural_order(channels: int) -> tuple[int, ...]:
    """Return the order of a layer's output."""
    # Use `index`, because Dynamo may pass the size as a symbol.
    return _natural(operator.index(channels)).order


def routed(x: Routed | Tensor) -> Routed:
    """Return ``x`` as a feature map. A plain tensor becomes a map of one part in canonical order."""
    if isinstance(x, Routed):
        return x
    return one_part(x, natural_order(x.shape[_CHANNEL_AXIS]))


def one_part(tensor: Tensor, order: tuple[int, ...]) -> Routed:
    """Return a feature map of one part."""
    return Routed((tensor,), Layout((len(order),), order))


def concatenated(x: Routed) -> Tensor:
    """Return all channels as one tensor in permuted order. Copies unless there is only one part."""
    return x.parts[0] if len(x.parts) == 1 else torch.cat(x.parts, _CHANNEL_AXIS)


def reordered(tensor: Tensor, order: tuple[int, ...], axis: int = 0) -> Tensor:
    """Return ``tensor`` with entry ``order[k]`` of ``axis`` at position k."""
    if _is_natural(order):
        return tensor
    return tensor.index_select(axis, index_constant(order, tensor.device))


def index_constant(order: tuple[int, ...], device: torch.device) -> Tensor:
    """Return ``order`` as an integer tensor (int64, or int32 on an NPU), cached for each device."""
    # An NPU gathers with int32 indices on its vector cores, but with int64 indices on its slow AI CPU.
    dtype = torch.int32 if device.type == "npu" else torch.int64
    if torch.compiler.is_compiling():
        return torch.tensor(order, dtype=dtype, device=device)
    return _cached_index(order, dtype, device)


@lru_cache(4096)
def _cached_index(order: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return outside_transforms(lambda: torch.tensor(order, dtype=dtype, device=device))
