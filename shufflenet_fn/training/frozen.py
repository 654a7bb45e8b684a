"""Split of trees of the network into trainable and frozen parts.

A frozen part (``conv1``, ``stage2``, …: the keys of ``params``) keeps its parameters and running statistics.
Its batch norms run in evaluation mode, and it has no gradient, no optimizer state and no average of its own.
Trees are split at their top-level keys, flat ones into whole buffers.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

from shufflenet_fn.training.flat import Flat, FlatSpec
from shufflenet_fn.tree import tree_build, tree_structure

PREFIX: Final = "frozen."
"""Start of the names of buffers that hold frozen parts."""


def trainable(tree: Any, frozen: Collection[str]) -> Any:
    """Return the trainable part of ``params`` or ``batch_stats``, plain or flat.

    Raises:
        ValueError: a name is not that of a part of the network or is the classifier's; or the tree was
            flattened with other parts frozen.
    """
    if isinstance(tree, Flat):
        spec = _trainable_spec(tree.spec, frozenset(frozen))
        named = zip(tree.spec.groups, tree.buffers, strict=True)
        return Flat(tuple(buffer for name, buffer in named if not name.startswith(PREFIX)), spec)
    parts = [name for name in tree if name != "fc"]
    if unknown := [name for name in frozen if name not in parts]:
        raise ValueError(f"{unknown[0]!r} cannot be frozen: choose among {', '.join(parts)}")
    return {name: part for name, part in tree.items() if name not in frozen}


def merged(tree: Any, part: Any) -> Any:
    """Return ``tree`` with its trainable part replaced by ``part``: the inverse of ``trainable``."""
    if not isinstance(tree, Flat):
        return {**tree, **part}
    new = dict(zip(part.spec.groups, part.buffers, strict=True))
    named = zip(tree.spec.groups, tree.buffers, strict=True)
    return Flat(tuple(new.get(name, buffer) for name, buffer in named), tree.spec)


@lru_cache(64)
def _trainable_spec(spec: FlatSpec, frozen: frozenset[str]) -> FlatSpec:
    """Return the layout of the trainable buffers, always the same object."""
    if any((part_of(slot.path) in frozen) != slot.group.startswith(PREFIX) for slot in spec.slots):
        raise ValueError("the state was flattened with other parts frozen: give flatten_state the same ones")
    if not frozen:
        return spec
    slots = tuple(slot for slot in spec.slots if part_of(slot.path) not in frozen)
    whole = tree_build(spec.structure, list(range(len(spec.slots))))  # type: ignore[arg-type]  # any leaves
    structure = tree_structure({name: part for name, part in whole.items() if name not in frozen})
    return FlatSpec(structure, slots, tuple(name for name in spec.groups if not name.startswith(PREFIX)))


def part_of(path: str) -> str:
    """Return the part of the network that the leaf at ``path`` belongs to."""
    return path.partition(".")[0]
