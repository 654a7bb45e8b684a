"""Conversion of trees between torchvision's channel order and that of a backend that routes channels.

A backend that routes channels (``Backend.permuted`` is not ``None``) reads the parameters of layers after a
split or shuffle in a permuted order. ``to_permuted`` and ``to_canonical`` permute a whole tree. They are
exact inverses of each other. Training rules that treat all channels alike (SGD, clipping, averages) commute
with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import init
from shufflenet_fn.tree import tree_paths, tree_unflatten
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.routed import BACKEND as ROUTED
from shufflenet_fn_backends.routed_map import Routed
from shufflenet_fn_backends.routing import inverse, is_natural

T = TypeVar("T")

_TOP: Final = ("conv1", "stage2", "stage3", "stage4", "conv5", "fc")


class _Permutation(NamedTuple):
    """``order[k]``: canonical channel at permuted position k. ``axis`` is negative: leaves may be stacked."""

    axis: int
    order: tuple[int, ...]


def to_permuted(config: ShuffleNetConfig, tree: T) -> T:
    """Convert ``tree`` from canonical (torchvision's) to permuted channel order.

    Args:
        config: the architecture that the tree belongs to.
        tree: ``params``, ``batch_stats``, ``Variables``, a ``TrainState``, or a tree that contains these. All
            leaves at the path of a layer's parameter are permuted like it, also gradients, velocities and
            averages. Leaves may have additional leading axes (a stacked ensemble).

    Returns:
        A tree of the same structure. Leaves that are the same in both orders are shared, not copied.

    Raises:
        ValueError: the number of channels of a leaf does not match ``config``; or the tree is only a part of
            such a tree, so that its paths do not identify the layers; or its parameters are folded.
    """
    return _permuted(tree, _permuted_order(config))


def to_canonical(config: ShuffleNetConfig, tree: T) -> T:
    """Convert ``tree`` from permuted to canonical (torchvision's) channel order. See ``to_permuted``."""
    back = {
        path: _Permutation(axis, inverse(order)) for path, (axis, order) in _permuted_order(config).items()
    }
    return _permuted(tree, back)


def in_order_of(config: ShuffleNetConfig, tree: T, backend: Backend[Any]) -> tuple[T, Backend[Any]]:
    """Return ``tree`` (in canonical order) in the fastest order for ``backend``, and the matching backend."""
    if backend.permuted is None:
        return tree, backend
    return to_permuted(config, tree), backend.permuted


def _permuted(tree: T, permutations: Mapping[str, _Permutation]) -> T:
    leaves = []
    for path, leaf in tree_paths(tree):
        within = _within_model(path)
        permutation = permutations.get(within)
        if f"{within.rpartition('.')[0]}.conv.weight" in permutations:
            raise ValueError(
                f"{path} is a folded parameter, and those keep the order of the backend they were folded "
                "for. Permute the Variables, then fold them for that backend."
            )
        leaves.append(leaf if permutation is None else _permuted_leaf(path, leaf, *permutation))
    return tree_unflatten(tree, leaves)


def _permuted_leaf(path: str, leaf: Tensor, axis: int, order: tuple[int, ...]) -> Tensor:
    if leaf.ndim < -axis or leaf.shape[axis] != len(order):
        raise ValueError(
            f"{path} has shape {tuple(leaf.shape)}, but this architecture has {len(order)} channels on "
            f"axis {axis} there"
        )
    return leaf.index_select(axis, torch.tensor(order, device=leaf.device))


def _within_model(path: str) -> str:
    """Return the path within the model, ``stage2.0.…`` for ``opt_state.momentum.stage2.0.…``; or ""."""
    keys = path.split(".")
    start = next((i for i, key in enumerate(keys) if key in _TOP), len(keys))
    if start == len(keys) and not {"conv", "bn"}.isdisjoint(keys):
        raise ValueError(
            f"{path} does not say where in the network it belongs. Give whole trees: params, batch_stats, "
            "Variables or a TrainState."
        )
    return ".".join(keys[start:])


@lru_cache(64)
def _permuted_order(config: ShuffleNetConfig) -> Mapping[str, _Permutation]:
    """Return the permutations by dotted path within the model.

    They are recorded during a forward pass on the smallest image, so the routing is defined in one place
    only. The pass does not use the meta device, because torch would first import sympy, triton and its
    compiler. That takes 1.5 s, a hundred times as long as the pass.
    """
    seen: list[tuple[tuple[int, ...], int]] = []

    def watching_conv2d(x: Routed | Tensor, weight: Tensor, *, groups: int, **options: int) -> Routed:
        seen.append((x.layout.order if isinstance(x, Routed) else (0,), groups))
        return ROUTED.conv2d(x, weight, groups=groups, **options)

    image = torch.zeros(1, 3, 32, 32, device="cpu")
    with torch.no_grad():
        watching = replace(ROUTED, conv2d=watching_conv2d)
        apply(config, init(config, torch.Generator()), image, backend=watching)
    permutations = {}
    for layer, (order, groups) in zip(conv_layers(config), seen, strict=True):
        if is_natural(order):
            continue
        path = ".".join(layer.path)
        if groups == 1:
            permutations[f"{path}.conv.weight"] = _Permutation(-3, order)
            continue
        permutations[f"{path}.conv.weight"] = _Permutation(-4, order)
        for name in ("weight", "bias", "mean", "var"):
            permutations[f"{path}.bn.{name}"] = _Permutation(-1, order)
    return MappingProxyType(permutations)
