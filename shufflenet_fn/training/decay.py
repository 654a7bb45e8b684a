"""Weight decay: which parameters it is added to, and adding it in a launch or two for a whole tree."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.model.variables import Params
from shufflenet_fn.training.flat import Raveled, RavelSpec
from shufflenet_fn.tree import tree_leaves, tree_paths, tree_unflatten
from shufflenet_fn_backends.transforms import outside_transforms

DecayFilter = Callable[[str, Tensor], bool]
"""Whether a parameter is decayed, from its dotted path and a tensor of its shape."""


def decay_all(path: str, leaf: Tensor) -> bool:
    """Weight decay on every parameter, batch norms and biases included: the original recipe."""
    return True


def decay_weights(path: str, leaf: Tensor) -> bool:
    """Weight decay on convolution and classifier weights only: the paper's recipe (megvii)."""
    return leaf.ndim > 1


def add_decay(grads: Any, params: Params | Raveled, weight_decay: float, decay: DecayFilter) -> Any:
    """``grads + weight_decay * params`` where ``decay`` says so."""
    if isinstance(params, Raveled):
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


def _add_to_buffers(
    grads: Raveled, params: Raveled, weight_decay: float, decay: DecayFilter
) -> Raveled:
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
    return Raveled(tuple(buffers), spec)


@lru_cache(64)
def _answers(spec: RavelSpec, group: str, decay: DecayFilter) -> tuple[bool, ...]:
    """Of each parameter in a buffer."""
    return tuple(
        decay(slot.path, torch.empty(slot.shape, device="meta")) for slot in spec.members(group)
    )


@lru_cache(64)
def _factors(
    spec: RavelSpec, group: str, decay: DecayFilter, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One for every element that is decayed and zero for the others."""
    answers = zip(spec.members(group), _answers(spec, group, decay), strict=True)
    pieces = [
        torch.full((slot.size + slot.padding,), float(decays), dtype=dtype)
        for slot, decays in answers
    ]
    return outside_transforms(lambda: torch.cat(pieces).to(device))
