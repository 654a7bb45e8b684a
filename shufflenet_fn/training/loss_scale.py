"""Loss scaling for float16: a value in the train state, not an object that hides one.

Gradients of a float16 network underflow unless the loss is multiplied by a scale first (Micikevicius et
al., 2018, arXiv:1710.03740, section 3.2). A step whose gradients overflowed is skipped. Unlike the
original, whose static scale never checked, that holds for the static scale too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.tree import tree_lists, tree_select
from shufflenet_fn_backends.support.errors import UsageError


@dataclass(frozen=True)
class LossScaling:
    """How the scale behaves.

    Args:
        kind: ``none``, ``static`` or ``dynamic``.
        initial: the scale at the start; the scale for good when static (the original: 64).
        growth_factor, backoff_factor, growth_interval: dynamic only. Doubled after this many steps
            without overflow, halved at each overflow (apex: 2, 0.5, 2000).
        minimum: a dynamic scale is never smaller.
    """

    kind: str = "none"
    initial: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    minimum: float = 1.0


class LossScale(NamedTuple):
    """``scale``: 0-dim float32. ``good_steps``: 0-dim int32, steps since the last change."""

    scale: Tensor
    good_steps: Tensor


def parse_loss_scaling(text: str) -> LossScaling:
    """``none``, ``dynamic`` or a positive number (static).

    Raises:
        UsageError: anything else.
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
    """The state at the start; ``()`` when nothing is scaled."""
    if scaling.kind == "none":
        return ()
    return LossScale(
        torch.tensor(scaling.initial, dtype=torch.float32, device=device),
        torch.tensor(0, dtype=torch.int32, device=device),
    )


def scale_loss(state: LossScale | tuple[()], loss: Tensor) -> Tensor:
    return loss * state.scale if isinstance(state, LossScale) else loss


def unscale(state: LossScale | tuple[()], grads: Any) -> Any:
    """Gradients of the unscaled loss."""
    if not isinstance(state, LossScale):
        return grads
    inverse = 1.0 / state.scale
    return tree_lists(lambda g: torch._foreach_mul(g, inverse), grads)


def adjust(
    scaling: LossScaling, state: LossScale | tuple[()], finite: Tensor
) -> LossScale | tuple[()]:
    """The scale for the next step, given whether this one's gradients were finite (0-dim bool)."""
    if scaling.kind != "dynamic" or not isinstance(state, LossScale):
        return state
    good = state.good_steps + 1
    larger = state.scale * scaling.growth_factor
    # A scale of infinity would come back from no backoff: every later step would be skipped.
    grow = (good >= scaling.growth_interval) & torch.isfinite(larger)
    zero = torch.zeros_like(good)
    grown = LossScale(
        torch.where(grow, larger, state.scale),
        torch.where(grow, zero, good),
    )
    shrunk = LossScale(
        (state.scale * scaling.backoff_factor).clamp(min=scaling.minimum),
        zero,
    )
    return tree_select(finite, grown, shrunk)
