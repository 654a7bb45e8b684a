"""A tree of many small tensors as a few one-dimensional buffers.

A rule that treats every element alike (SGD, averages, scaling, a cast, the mean over ranks) then launches one
kernel per buffer instead of one per tensor. On an accelerator, the launches are most of its cost.
``Flat`` is a pytree node whose leaves are the buffers, so functions of whole trees (``tree_foreach``) accept
it like any other tree. ``unflatten`` returns the tree as views, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.tree import (
    TreeSpec,
    register_node,
    tree_build,
    tree_leaves,
    tree_paths,
    tree_replace,
    tree_structure,
)
from shufflenet_fn_backends.support.private import outside_transforms

ALIGNMENT: Final = 16
"""In elements: every tensor starts at a multiple of it, which is 32 bytes in float16. Ascend's vector units
read and write blocks of 32 bytes."""


class Slot(NamedTuple):
    """Position of a leaf: elements ``start`` to ``start + size`` of the buffer called ``group``."""

    path: str
    group: str
    start: int
    size: int
    shape: tuple[int, ...]

    @property
    def padding(self) -> int:
        """Number of elements after the leaf that belong to no leaf."""
        return -self.size % ALIGNMENT


@dataclass(frozen=True, eq=False)
class FlatSpec:
    """Layout of a flat tree. Only trees that share one spec (the same object) can be combined."""

    structure: TreeSpec
    slots: tuple[Slot, ...]
    groups: tuple[str, ...]

    def members(self, group: str) -> tuple[Slot, ...]:
        """Return the leaves of a buffer, in order."""
        return tuple(slot for slot in self.slots if slot.group == group)


@dataclass(frozen=True)
class Flat:
    """A flat tree: one 1-D tensor for each of ``spec.groups``.

    A pytree node with ``spec`` as static context.
    """

    buffers: tuple[Tensor, ...]
    spec: FlatSpec


register_node(
    Flat,
    lambda flat: (list(flat.buffers), flat.spec),
    lambda buffers, spec: Flat(tuple(buffers), spec),
    lambda flat: flat.spec.groups,
)


def flat_spec(tree: Any, group: Callable[[str, Tensor], str]) -> FlatSpec:
    """Return a layout for ``tree`` in which each leaf goes to the buffer named ``group(path, leaf)``."""
    ends: dict[str, int] = {}
    slots = []
    for path, leaf in tree_paths(tree):
        name = group(path, leaf)
        slot = Slot(path, name, ends.get(name, 0), leaf.numel(), tuple(leaf.shape))
        ends[name] = slot.start + slot.size + slot.padding
        slots.append(slot)
    return FlatSpec(tree_structure(tree), tuple(slots), tuple(ends))


def flatten(tree: Any, spec: FlatSpec, *, pad: float = 0.0) -> Flat:
    """Return ``tree`` in the layout ``spec``, with ``pad`` between the leaves: one concatenation per buffer.

    Raises:
        ValueError: the leaves of a buffer differ in dtype, or the tree does not have this layout.
    """
    if isinstance(tree, Flat) and tree.spec is spec:
        return tree
    leaves = tree_leaves(tree)
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if shapes != [slot.shape for slot in spec.slots]:
        raise ValueError("the tree has other leaves than the one that its layout was made for")
    pieces: dict[str, list[Tensor]] = {name: [] for name in spec.groups}
    for slot, leaf in zip(spec.slots, leaves, strict=True):
        pieces[slot.group].append(leaf.reshape(-1))
        if slot.padding:
            pieces[slot.group].append(_padding(pad, leaf.dtype, leaf.device)[: slot.padding])
    for name, members in pieces.items():
        dtypes = {piece.dtype for piece in members}
        if len(dtypes) > 1:
            # torch.cat would promote silently, and launch a kernel for each tensor.
            raise ValueError(f"the buffer {name!r} cannot hold {sorted(map(str, dtypes))} together")
    return Flat(tuple(torch.cat(members) for members in pieces.values()), spec)


def unflatten(tree: Any) -> Any:
    """Return ``tree`` with every ``Flat`` replaced by the tree that it holds. The leaves are views."""
    return tree_replace(tree, lambda node: isinstance(node, Flat), _views)


def _views(flat: Flat) -> Any:
    pieces = {
        group: iter(_cut(buffer, flat.spec.members(group)))
        for group, buffer in zip(flat.spec.groups, flat.buffers, strict=True)
    }
    leaves = [next(pieces[slot.group]).view(slot.shape) for slot in flat.spec.slots]
    return tree_build(flat.spec.structure, leaves)


def _cut(buffer: Tensor, slots: Iterable[Slot]) -> list[Tensor]:
    sizes = [size for slot in slots for size in (slot.size, slot.padding)]
    return list(torch.split_with_sizes(buffer, sizes))[::2]


@lru_cache(64)
def _padding(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return outside_transforms(lambda: torch.full((ALIGNMENT,), value, dtype=dtype, device=device))
