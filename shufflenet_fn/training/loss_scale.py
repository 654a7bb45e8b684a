"""Loss scaling for float16. The scale is a value in the train state.

Gradients of a float16 network underflow unless the loss is multiplied by a scale first (Micikevicius et
al., 2018, arXiv:1710.03740, section 3.2). A step whose gradients overflow is skipped, also with a static
scale. (The original does not check for overflow with a static scale.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.tree import tree_foreach, tree_select
from shufflenet_fn_backends.support.errors import UsageError


@dataclass(frozen=True)
class LossScaling:
    """Configuration of the loss scale.

    Args:
        kind: ``none``, ``static`` or ``dynamic``.
        initial: the scale at the start. A static scale keeps it (the original: 64).
        growth_factor: a dynamic scale is multiplied by it after ``growth_interval`` steps without overflow
            (apex: 2).
        backoff_factor: a dynamic scale is multiplied by it at each overflow (apex: 0.5).
        growth_interval: see ``growth_factor`` (apex: 2000).
        minimum: lower bound of a dynamic scale.
    """

    kind: str = "none"
    initial: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    minimum: float = 1.0


class LossScale(NamedTuple):
    """State of the loss scale.

    ``scale``: 0-dim float32. ``good_steps``: 0-dim int32, steps since the last change.
    """

    scale: Tensor
    good_steps: Tensor


def parse_loss_scaling(text: str) -> LossScaling:
    """Parse ``none``, ``dynamic`` or a positive number (a static scale).

    Raises:
        UsageError: ``text`` is none of these.
    """
    if text in ("none", "dynamic"):
        return LossScaling(text)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise UsageError(
            f"loss scale {text!r} is not valid. Use a positive number such as 64 (static), "
            "'dynamic', or 'none'."
        )
    return LossScaling("static", initial=value)


def init_loss_scale(scaling: LossScaling, device: torch.device) -> LossScale | tuple[()]:
    """Return the initial state, or ``()`` without loss scaling."""
    if scaling.kind == "none":
        return ()
    return LossScale(
        torch.tensor(scaling.initial, dtype=torch.float32, device=device),
        torch.tensor(0, dtype=torch.int32, device=device),
    )


def scale_loss(state: LossScale | tuple[()], loss: Tensor) -> Tensor:
    return loss * state.scale if isinstance(state, LossScale) else loss


def unscale(state: LossScale | tuple[()], grads: Any) -> Any:
    """Return the gradients of the unscaled loss."""
    if not isinstance(state, LossScale):
        return grads
    inverse = 1.0 / state.scale
    return tree_foreach(lambda g: torch._foreach_mul(g, inverse), grads)


def adjust(scaling: LossScaling, state: LossScale | tuple[()], finite: Tensor) -> LossScale | tuple[()]:
    """Return the scale for the next step, given whether this step's gradients are finite (0-dim bool)."""
    if scaling.kind != "dynamic" or not isinstance(state, LossScale):
        return state
    good = state.good_steps + 1
    larger = state.scale * scaling.growth_factor
    # No backoff makes an infinite scale finite again, so every later step would be skipped.
    grow = (good >= scaling.growth_interval) & torch.isfinite(larger)
    zero = torch.zeros_like(good)
    grown = LossScale(torch.where(grow, larger, state.scale), torch.where(grow, zero, good))
    shrunk = LossScale((state.scale * scaling.backoff_factor).clamp(min=scaling.minimum), zero)
    return tree_select(finite, grown, shrunk)
