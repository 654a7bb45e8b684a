"""A tree of many small tensors as a few one-dimensional buffers.

A rule that treats every element alike (SGD, averages, scaling, a cast, the mean over ranks) then is one
kernel for each buffer and not one for each tensor, which on an accelerator is most of what it costs.
``Raveled`` is a pytree node with the buffers as its leaves, so functions of whole trees (``tree_lists``) take
it as any other tree; ``unravel`` gives the tree back as views, without a copy.
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
from shufflenet_fn_backends.transforms import outside_transforms

ALIGNMENT: Final = 16
"""Elements: every tensor starts at a multiple of it, 32 bytes in float16. Ascend's vector units read and
write blocks of 32 bytes."""


class Slot(NamedTuple):
    """Where a leaf lies: elements ``start`` to ``start + size`` of the buffer called ``group``."""

    path: str
    group: str
    start: int
    size: int
    shape: tuple[int, ...]

    @property
    def padding(self) -> int:
        """Elements after it that belong to no leaf."""
        return -self.size % ALIGNMENT


@dataclass(frozen=True, eq=False)
class RavelSpec:
    """How a tree is laid out. Trees with one spec (the same object) can be computed with together."""

    structure: TreeSpec
    slots: tuple[Slot, ...]
    groups: tuple[str, ...]

    def members(self, group: str) -> tuple[Slot, ...]:
        """The leaves of a buffer, in its order."""
        return tuple(slot for slot in self.slots if slot.group == group)


@dataclass(frozen=True)
class Raveled:
    """``buffers``: one 1-D tensor for each of ``spec.groups``. A pytree node; the spec is static context."""

    buffers: tuple[Tensor, ...]
    spec: RavelSpec


register_node(
    Raveled,
    lambda raveled: (list(raveled.buffers), raveled.spec),
    lambda buffers, spec: Raveled(tuple(buffers), spec),
    lambda raveled: raveled.spec.groups,
)


def ravel_spec(tree: Any, group: Callable[[str, Tensor], str]) -> RavelSpec:
    """A layout for ``tree``: which leaf goes to which buffer is ``group(path, leaf)``."""
    ends: dict[str, int] = {}
    slots = []
    for path, leaf in tree_paths(tree):
        name = group(path, leaf)
        slot = Slot(path, name, ends.get(name, 0), leaf.numel(), tuple(leaf.shape))
        ends[name] = slot.start + slot.size + slot.padding
        slots.append(slot)
    return RavelSpec(tree_structure(tree), tuple(slots), tuple(ends))


def ravel(tree: Any, spec: RavelSpec, *, pad: float = 0.0) -> Raveled:
    """``tree`` in the layout ``spec``, by one concatenation for each buffer; ``pad`` between the leaves.

    Raises:
        ValueError: the leaves of a buffer differ in dtype, or the tree does not have this layout.
    """
    if isinstance(tree, Raveled) and tree.spec is spec:
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
            # (cat would promote, silently and by a kernel for each tensor)
            raise ValueError(f"the buffer {name!r} cannot hold {sorted(map(str, dtypes))} together")
    return Raveled(tuple(torch.cat(members) for members in pieces.values()), spec)


def unravel(tree: Any) -> Any:
    """``tree`` with every ``Raveled`` in it as the tree that it holds, whose leaves are views."""
    return tree_replace(tree, lambda node: isinstance(node, Raveled), _views)


def _views(raveled: Raveled) -> Any:
    pieces = {
        group: iter(_cut(buffer, raveled.spec.members(group)))
        for group, buffer in zip(raveled.spec.groups, raveled.buffers, strict=True)
    }
    leaves = [next(pieces[slot.group]).view(slot.shape) for slot in raveled.spec.slots]
    return tree_build(raveled.spec.structure, leaves)


def _cut(buffer: Tensor, slots: Iterable[Slot]) -> list[Tensor]:
    sizes = [size for slot in slots for size in (slot.size, slot.padding)]
    return list(torch.split_with_sizes(buffer, sizes))[::2]


@lru_cache(64)
def _padding(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return outside_transforms(lambda: torch.full((ALIGNMENT,), value, dtype=dtype, device=device))
