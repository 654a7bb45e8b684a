"""Everything that training changes, in one pytree: parameters, their averages, and which parts are trained.

A frozen part (``conv1``, ``stage2``, …: the keys of ``params``) keeps its parameters and running statistics.
Its batch norms run in evaluation mode, and it has no gradient, no optimizer state and no average of its own.
Trees are split at their top-level keys, flat ones into whole buffers.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.model.variables import BatchStats, Params, Variables
from shufflenet_fn.training.flat import Flat, FlatSpec
from shufflenet_fn.training.loss_scale import LossScale, LossScaling, init_loss_scale
from shufflenet_fn.training.optim import GradientTransformation
from shufflenet_fn.tree import tree_build, tree_foreach, tree_map, tree_structure

PREFIX: Final = "frozen."
"""Start of the names of buffers that hold frozen parts."""


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


def trainable(tree: Any, frozen: Collection[str]) -> Any:
    """Return the trainable part of ``params`` or ``batch_stats``, plain or flat.

    Raises:
        ValueError: a name is not that of a part of the network or is the classifier's; or the tree was
            flattened with other parts frozen.
    """
    if isinstance(tree, Flat):
        spec = _trainable_spec(tree.spec, frozenset(frozen))
        named = zip(tree.spec.groups, tree.buffers, strict=True)
        return Flat(tuple(buffer for name, buffer in named if not name.startswith(PREFIX)), spec)
    parts = [name for name in tree if name != "fc"]
    if unknown := [name for name in frozen if name not in parts]:
        raise ValueError(f"{unknown[0]!r} cannot be frozen: choose among {', '.join(parts)}")
    return {name: part for name, part in tree.items() if name not in frozen}


def merged(tree: Any, part: Any) -> Any:
    """Return ``tree`` with its trainable part replaced by ``part``: the inverse of ``trainable``."""
    if not isinstance(tree, Flat):
        return {**tree, **part}
    new = dict(zip(part.spec.groups, part.buffers, strict=True))
    named = zip(tree.spec.groups, tree.buffers, strict=True)
    return Flat(tuple(new.get(name, buffer) for name, buffer in named), tree.spec)


@lru_cache(64)
def _trainable_spec(spec: FlatSpec, frozen: frozenset[str]) -> FlatSpec:
    """Return the layout of the trainable buffers, always the same object."""
    if any((part_of(slot.path) in frozen) != slot.group.startswith(PREFIX) for slot in spec.slots):
        raise ValueError("the state was flattened with other parts frozen: give flatten_state the same ones")
    if not frozen:
        return spec
    slots = tuple(slot for slot in spec.slots if part_of(slot.path) not in frozen)
    whole = tree_build(spec.structure, list(range(len(spec.slots))))  # type: ignore[arg-type]  # any leaves
    structure = tree_structure({name: part for name, part in whole.items() if name not in frozen})
    return FlatSpec(structure, slots, tuple(name for name in spec.groups if not name.startswith(PREFIX)))


def part_of(path: str) -> str:
    """Return the part of the network that the leaf at ``path`` belongs to."""
    return path.partition(".")[0]


def init_ema(variables: Variables) -> Variables:
    """Return the average before the first update: a copy, which shares no memory with ``variables``."""
    return tree_map(torch.clone, variables)


def update_ema(average: Variables, variables: Variables, *, decay: float) -> Variables:
    """Return ``decay * average + (1 - decay) * variables``, for parameters and running statistics."""
    return tree_foreach(lambda a, v: torch._foreach_lerp(a, v, 1.0 - decay), average, variables)
