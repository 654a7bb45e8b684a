"""Exponential moving average of the variables (Polyak averaging), as values."""

from __future__ import annotations

import torch

from shufflenet_fn.model.variables import Variables
from shufflenet_fn.tree import tree_foreach, tree_map


def init_ema(variables: Variables) -> Variables:
    """Return the average before the first update: a copy, which shares no memory with ``variables``."""
    return tree_map(torch.clone, variables)


def update_ema(average: Variables, variables: Variables, *, decay: float) -> Variables:
    """Return ``decay * average + (1 - decay) * variables``, for parameters and running statistics."""
    return tree_foreach(lambda a, v: torch._foreach_lerp(a, v, 1.0 - decay), average, variables)
