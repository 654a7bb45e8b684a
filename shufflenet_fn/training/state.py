"""Everything that training changes, in one pytree."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.model.variables import BatchStats, Params, Variables
from shufflenet_fn.training.ema import init_ema
from shufflenet_fn.training.frozen import merged, trainable
from shufflenet_fn.training.loss_scale import LossScale, LossScaling, init_loss_scale
from shufflenet_fn.training.optim import GradientTransformation


class TrainState(NamedTuple):
    """The training state. Each step returns a new one; none is modified in place.

    ``step``: 0-dim int64, the number of updates so far. ``loss_scale``: ``LossScale`` or ``()``.
    ``ema``: averaged ``Variables`` or ``()``.
    """

    step: Tensor
    params: Params
    batch_stats: BatchStats
    opt_state: Any
    loss_scale: LossScale | tuple[()]
    ema: Variables | tuple[()]

    @property
    def variables(self) -> Variables:
        return Variables(self.params, self.batch_stats)


def create_train_state(
    variables: Variables,
    optimizer: GradientTransformation,
    *,
    loss_scaling: LossScaling | None = None,
    ema: bool = False,
    frozen: Collection[str] = (),
) -> TrainState:
    """Return the state before the first step, on the device of ``variables``.

    Args:
        variables: from ``init`` or ``from_torchvision``, in the policy's ``param_dtype``.
        optimizer: creates ``opt_state``.
        loss_scaling: ``None`` for no scaling.
        ema: whether to keep an average of the variables.
        frozen: parts of the network that are not trained, as in ``make_train_step``.
    """
    device = variables.params["fc"]["weight"].device
    return TrainState(
        step=torch.tensor(0, dtype=torch.int64, device=device),
        params=variables.params,
        batch_stats=variables.batch_stats,
        opt_state=optimizer.init(trainable(variables.params, frozen)),
        loss_scale=init_loss_scale(loss_scaling or LossScaling(), device),
        ema=init_ema(variables) if ema else (),
    )


def trainable_state(state: TrainState, frozen: Collection[str]) -> TrainState:
    """Return ``state`` without the frozen parts of its parameters, statistics and averages."""
    ema = state.ema
    if isinstance(ema, Variables):
        ema = Variables(*(trainable(tree, frozen) for tree in ema))
    params, batch_stats = (trainable(tree, frozen) for tree in state.variables)
    return state._replace(params=params, batch_stats=batch_stats, ema=ema)


def merged_state(state: TrainState, part: TrainState) -> TrainState:
    """Return ``part`` with the frozen parts of ``state``: the inverse of ``trainable_state``."""
    ema = part.ema
    if isinstance(state.ema, Variables) and isinstance(ema, Variables):
        ema = Variables(*map(merged, state.ema, ema))
    params, batch_stats = map(merged, state.variables, part.variables)
    return part._replace(params=params, batch_stats=batch_stats, ema=ema)
