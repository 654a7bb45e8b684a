"""Rules for some of the parameters: weight decay and scaled updates, for a whole tree in a few launches."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.model.variables import Params
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
    if not isinstance(tree, Flat):
        leaves = [leaf * factor if select(path, leaf) else leaf for path, leaf in tree_paths(tree)]
        return tree_unflatten(tree, leaves)
    spec, buffers = tree.spec, list(tree.buffers)
    for i, (group, buffer) in enumerate(zip(spec.groups, tree.buffers, strict=True)):
        if any(_answers(spec, group, select)):
            buffers[i] = buffer * _factors(spec, group, select, buffer.dtype, buffer.device, factor, 1.0)
    return Flat(tuple(buffers), spec)


def add_decay(grads: Any, params: Params | Flat, weight_decay: float, decay: DecayFilter) -> Any:
    """Return ``grads + weight_decay * params`` for the parameters that ``decay`` selects, else ``grads``."""
    if isinstance(params, Flat):
        return _add_to_buffers(grads, params, weight_decay, decay)
    leaves, weights = tree_leaves(grads), tree_leaves(params)
    chosen = [i for i, (path, leaf) in enumerate(tree_paths(params)) if decay(path, leaf)]
    if not chosen:
        return grads
    decayed = torch._foreach_add(
        [leaves[i] for i in chosen], [weights[i] for i in chosen], alpha=weight_decay
    )
    for i, leaf in zip(chosen, decayed, strict=True):
        leaves[i] = leaf
    return tree_unflatten(grads, leaves)


def _add_to_buffers(grads: Flat, params: Flat, weight_decay: float, decay: DecayFilter) -> Flat:
    spec, buffers = params.spec, list(grads.buffers)
    whole = []
    for i, group in enumerate(spec.groups):
        answers = _answers(spec, group, decay)
        if all(answers):
            whole.append(i)
        elif any(answers):
            param = params.buffers[i]
            factors = _factors(spec, group, decay, param.dtype, param.device)
            buffers[i] = torch.addcmul(buffers[i], factors, param, value=weight_decay)
    if whole:
        decayed = torch._foreach_add(
            [buffers[i] for i in whole], [params.buffers[i] for i in whole], alpha=weight_decay
        )
        for i, buffer in zip(whole, decayed, strict=True):
            buffers[i] = buffer
    return Flat(tuple(buffers), spec)


@lru_cache(64)
def _answers(spec: FlatSpec, group: str, decay: DecayFilter) -> tuple[bool, ...]:
    """Return the answer of ``decay`` for each parameter in a buffer."""
    return tuple(decay(slot.path, torch.empty(slot.shape, device="meta")) for slot in spec.members(group))


@lru_cache(64)
def _factors(
    spec: FlatSpec,
    group: str,
    select: DecayFilter,
    dtype: torch.dtype,
    device: torch.device,
    value: float = 1.0,
    other: float = 0.0,
) -> Tensor:
    """Return ``value`` for every element that is selected and ``other`` for the others."""
    answers = zip(spec.members(group), _answers(spec, group, select), strict=True)
    pieces = [
        torch.full((slot.size + slot.padding,), value if answer else other, dtype=dtype)
        for slot, answer in answers
    ]
    return outside_transforms(lambda: torch.cat(pieces).to(device))
