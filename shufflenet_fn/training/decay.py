"""Rules for some of the parameters: weight decay and scaled updates, for a whole tree in a few launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.training.flat import Flat, FlatSpec
from shufflenet_fn.tree import tree_leaves, tree_paths, tree_unflatten
from shufflenet_fn_backends.support.private import outside_transforms

DecayFilter = Callable[[str, Tensor], bool]
"""Takes a parameter's dotted path and a tensor of its shape. Returns whether the rule applies to it."""


def decay_all(path: str, leaf: Tensor) -> bool:
    """Decay every parameter, including batch norms and biases: the original recipe."""
    return True


def decay_weights(path: str, leaf: Tensor) -> bool:
    """Decay convolution and classifier weights only: the paper's recipe (megvii)."""
    return leaf.ndim > 1


def of_classifier(path: str, leaf: Tensor) -> bool:
    """Select the classifier."""
    return path.startswith("fc.")


def scale_selected(tree: Any, factor: float, select: DecayFilter) -> Any:
    """Return ``tree`` with the leaves that ``select`` selects multiplied by ``factor``."""
    leaves = tree_leaves(tree)
    for i, answers in enumerate(_answers(tree, select)):
        if all(answers):
            leaves[i] = leaves[i] * factor
        elif any(answers):
            leaf = leaves[i]
            leaves[i] = leaf * _factors(tree.spec, i, select, leaf.dtype, leaf.device, factor, 1.0)
    return tree_unflatten(tree, leaves)


def add_decay(grads: Any, params: Any, weight_decay: float, decay: DecayFilter) -> Any:
    """Return ``grads + weight_decay * params`` for the parameters that ``decay`` selects, else ``grads``."""
    leaves, weights = tree_leaves(grads), tree_leaves(params)
    whole = []
    for i, answers in enumerate(_answers(params, decay)):
        if all(answers):
            whole.append(i)
        elif any(answers):
            factors = _factors(params.spec, i, decay, weights[i].dtype, weights[i].device)
            leaves[i] = torch.addcmul(leaves[i], factors, weights[i], value=weight_decay)
    if whole:
        decayed = torch._foreach_add(
            [leaves[i] for i in whole], [weights[i] for i in whole], alpha=weight_decay
        )
        for i, leaf in zip(whole, decayed, strict=True):
            leaves[i] = leaf
    return tree_unflatten(grads, leaves)


def _answers(tree: Any, select: DecayFilter) -> Sequence[tuple[bool, ...]]:
    """Return for each leaf what ``select`` answers: once for a parameter, several times for a flat buffer."""
    if isinstance(tree, Flat):
        return _flat_answers(tree.spec, select)
    return [(select(path, leaf),) for path, leaf in tree_paths(tree)]


@lru_cache(64)
def _flat_answers(spec: FlatSpec, select: DecayFilter) -> tuple[tuple[bool, ...], ...]:
    return tuple(
        tuple(select(slot.path, torch.empty(slot.shape, device="meta")) for slot in spec.members(group))
        for group in spec.groups
    )


@lru_cache(64)
def _factors(
    spec: FlatSpec,
    buffer: int,
    select: DecayFilter,
    dtype: torch.dtype,
    device: torch.device,
    value: float = 1.0,
    other: float = 0.0,
) -> Tensor:
    """Return ``value`` for every element of a buffer that is selected and ``other`` for the others."""
    answers = zip(spec.members(spec.groups[buffer]), _flat_answers(spec, select)[buffer], strict=True)
    pieces = [
        torch.full((slot.size + slot.padding,), value if answer else other, dtype=dtype)
        for slot, answer in answers
    ]
    return outside_transforms(lambda: torch.cat(pieces).to(device))
