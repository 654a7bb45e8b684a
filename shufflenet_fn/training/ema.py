"""Exponential moving average of the variables (Polyak averaging), as values."""

from __future__ import annotations

import torch

from shufflenet_fn.model.variables import Variables
from shufflenet_fn.tree import tree_lists, tree_map


def init_ema(variables: Variables) -> Variables:
    """The average before the first update: a copy, so that no later in-place use is shared."""
    return tree_map(torch.clone, variables)


def update_ema(average: Variables, variables: Variables, *, decay: float) -> Variables:
    """``decay * average + (1 - decay) * variables``, parameters and running statistics alike."""
    return tree_lists(lambda a, v: torch._foreach_lerp(a, v, 1.0 - decay), average, variables)
