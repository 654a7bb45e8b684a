"""Helpers of the parity tests: build inputs of a case, run it, differentiate it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from shufflenet_fn.tree import tree_leaves, tree_map, tree_paths, tree_unflatten
from shufflenet_fn_backends.primitives import Backend
from tests.parity.cases import Case, Inputs, Outputs

LAYOUTS = ("NCHW", "channels_last")


def prepared(inputs: Inputs, device: torch.device, dtype: torch.dtype, layout: str) -> Inputs:
    """On the device, in the dtypes that the network would have there, with maps in the layout."""
    wide = torch.promote_types(dtype, torch.float32)

    def prepare(path: str, leaf: Tensor) -> Tensor:
        keys = path.split(".")
        leaf = leaf.to(device, wide if "bn" in keys or "stats" in keys else dtype)
        if keys[0].startswith("x") and layout == "channels_last":
            # Of the last three dimensions, so that a stack of maps for `vmap` is in the layout too.
            return leaf.movedim(-3, -1).contiguous().movedim(-1, -3)
        return leaf

    return tree_unflatten(inputs, [prepare(path, leaf) for path, leaf in tree_paths(inputs)])


def stacked(trees: list[Any]) -> Any:
    """One tree with a new first dimension; maps keep their layout."""

    def stack(*leaves: Tensor) -> Tensor:
        if leaves[0].ndim >= 4 and leaves[0].stride(-3) == 1:
            return torch.stack([leaf.movedim(-3, -1) for leaf in leaves]).movedim(-1, -3)
        return torch.stack(leaves)

    return tree_map(stack, *trees)


def parted(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """What to differentiate by, and the rest."""
    return (
        {key: value for key, value in inputs.items() if key != "stats"},
        {key: value for key, value in inputs.items() if key == "stats"},
    )


def loss(outputs: Outputs) -> Tensor:
    """A scalar that every ``y…`` enters with weights of its own, and quadratically."""
    terms = []
    for number, y in enumerate(differentiable(outputs).values()):
        # (Not from a generator: `vmap` refuses random numbers inside.)
        ramp = torch.arange(math.prod(y.shape), dtype=torch.float64)
        weights = (ramp * (1.7 + number)).cos().reshape(y.shape)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        terms.append(((y + 0.3 * y.square()) * weights.to(y)).sum())
    return torch.stack(terms).sum()


def differentiable(outputs: Outputs) -> Outputs:
    return {key: value for key, value in outputs.items() if key.startswith("y")}


def loss_of(case: Case, backend: Backend[Any], rest: Inputs) -> Callable[[Inputs], Tensor]:
    """Inputs to differentiate by -> scalar."""
    return lambda t: loss(case.run(backend, {**t, **rest}))


def autograd(case: Case, backend: Backend[Any], inputs: Inputs) -> tuple[Outputs, Inputs]:
    """Outputs and gradients by the autograd engine, as ``.backward()`` has it."""
    t, rest = parted(inputs)
    leaves = [leaf.detach().requires_grad_() for leaf in tree_leaves(t)]
    outputs = case.run(backend, {**tree_unflatten(t, leaves), **rest})
    grads = torch.autograd.grad(loss(outputs), leaves)
    return pytree.tree_map(torch.detach, outputs), tree_unflatten(t, list(grads))
