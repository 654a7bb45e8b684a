"""Gradients for a step that is taken once, in two ways with the same numbers.

``torch.func.grad(loss_fn, has_aux=True)`` would do too, but builds the graph of a second derivative on the
way and keeps all activations until the end: 1.45 times the peak memory of this network's step. Both
functions here free the graph while the gradients are computed, so the result cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from shufflenet_fn.model.variables import Params
from shufflenet_fn.tree import tree_leaves, tree_map, tree_unflatten

Aux = TypeVar("Aux")


class Gradients(Protocol):
    """Gradients of ``loss_fn(params) -> (loss, aux)``, and the detached ``aux``."""

    def __call__(
        self, loss_fn: Callable[[Params], tuple[Tensor, Any]], params: Params
    ) -> tuple[Params, Any]: ...


def grads_by_func(
    loss_fn: Callable[[Params], tuple[Tensor, Aux]], params: Params
) -> tuple[Params, Aux]:
    """By ``torch.func.vjp``: usable under ``vmap`` and other transforms, an ensemble's steps for example."""
    # (torch annotates the result of vjp as a pair, which it is without has_aux.)
    primal: tuple[Any, ...] = torch.func.vjp(loss_fn, params, has_aux=True)
    loss, pull_back, aux = primal
    (grads,) = pull_back(torch.ones_like(loss), retain_graph=False, create_graph=False)
    return grads, aux


def grads_by_engine(
    loss_fn: Callable[[Params], tuple[Tensor, Aux]], params: Params
) -> tuple[Params, Aux]:
    """By the autograd engine, for use outside transforms: without the 0.1 to 0.3 ms that each operator with a
    gradient of its own costs under ``torch.func``.
    """
    leaves = [leaf.detach().requires_grad_() for leaf in tree_leaves(params)]
    with torch.enable_grad():
        loss, aux = loss_fn(tree_unflatten(params, leaves))
    grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return tree_unflatten(params, list(grads)), tree_map(lambda leaf: leaf.detach(), aux)
