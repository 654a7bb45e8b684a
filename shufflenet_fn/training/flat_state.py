"""The train state in a few buffers, for devices on which a kernel launch costs more than a copy.

A step computes the same for every element of a flat state as for a plain one. Only norms over all gradients
(clipping) are summed in another order. Flatten the state before the first step. Unflatten it before anything
but a step reads it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.running_stats import MomentsTree, bessel, kind_of, update_running_stats_foreach
from shufflenet_fn.model.variables import BatchStats, Params, Variables, get_path
from shufflenet_fn.training.flat import Flat, FlatSpec, flat_spec, flatten, unflatten
from shufflenet_fn.training.precision import Policy
from shufflenet_fn.training.state import PREFIX, TrainState, part_of, trainable
from shufflenet_fn.tree import tree_leaves, tree_map, tree_replace, tree_structure
from shufflenet_fn_backends.primitives import Moments
from shufflenet_fn_backends.support.private import outside_transforms

NORM: Final = "norm"


def flatten_state(state: TrainState, frozen: Collection[str] = ()) -> TrainState:
    """Return ``state`` with its parameters, its statistics and all trees of their structure flattened.

    Parameters are kept in two buffers, so that a precision policy can cast each as a whole: ``norm`` (batch
    norms) and ``rest`` (convolutions and classifier). Statistics are kept in ``mean`` and ``var``. ``frozen``
    parts of the network have such buffers of their own. The step number moves to the host, so the schedule is
    computed there.
    """

    def group(path: str, leaf: Tensor) -> str:
        kind = path.rpartition(".")[2]
        if kind in ("weight", "bias"):
            kind = NORM if ".bn." in path else "rest"
        return PREFIX + kind if part_of(path) in frozen else kind

    params_spec, stats_spec = flat_spec(state.params, group), flat_spec(state.batch_stats, group)

    def flat(variables: Variables) -> Any:
        return Variables(
            flatten(variables.params, params_spec),  # type: ignore[arg-type]  # trees all the same
            flatten(variables.batch_stats, stats_spec),  # type: ignore[arg-type]
        )

    params, batch_stats = flat(state.variables)
    return state._replace(
        step=state.step.cpu(),
        params=params,
        batch_stats=batch_stats,
        opt_state=_flatten_within(state.opt_state, trainable(params, frozen).spec),
        ema=flat(state.ema) if isinstance(state.ema, Variables) else state.ema,
    )


def unflatten_state(state: TrainState) -> TrainState:
    """Return the plain state. Its leaves are views of the buffers."""
    plain: TrainState = unflatten(state)
    return plain


def params_to_compute_with(params: Params | Flat, policy: Policy | None) -> Params:
    """Return the tree of parameters that the loss is differentiated with respect to.

    Flat parameters are cast here, buffer by buffer. Plain ones are cast inside the network, leaf by leaf.
    """
    if not isinstance(params, Flat):
        return params
    buffers = params.buffers
    if policy is not None and not policy.use_autocast:
        buffers = tuple(
            buffer.to(policy.norm_dtype if group.removeprefix(PREFIX) == NORM else policy.compute_dtype)
            for group, buffer in zip(params.spec.groups, buffers, strict=True)
        )
    tree: Params = unflatten(Flat(buffers, params.spec))
    return tree


def grads_like(params: Params | Flat, grads: Params) -> Any:
    """Return the gradients of ``params_to_compute_with`` in the layout and dtypes of ``params``."""
    if not isinstance(params, Flat):
        return grads
    flat = flatten(grads, params.spec)
    pairs = zip(flat.buffers, params.buffers, strict=True)
    return Flat(tuple(grad.to(buffer.dtype) for grad, buffer in pairs), params.spec)


def copied(batch_stats: BatchStats | Flat) -> Any:
    """Return a copy of ``batch_stats`` in the same layout: one copy per buffer if it is flat."""
    return tree_map(torch.clone, batch_stats)


def updated_stats(config: ShuffleNetConfig, batch_stats: BatchStats | Flat, moments: MomentsTree) -> Any:
    """Return the running statistics after a batch (``running_stats``), in the layout of ``batch_stats``."""
    if not tree_leaves(batch_stats):
        return batch_stats
    if not isinstance(batch_stats, Flat):
        return update_running_stats_foreach(config, batch_stats, moments)
    spec = batch_stats.spec
    of_layers: list[Moments] = [get_path(moments, tuple(slot.path.split(".")[:-2])) for slot in spec.slots]
    leaves = [
        layer.mean if slot.group == "mean" else layer.saved
        for slot, layer in zip(spec.slots, of_layers, strict=True)
    ]
    # Pad with ones, because inverse powers of the padding are computed too.
    batch = dict(zip(spec.groups, flatten(leaves, spec, pad=1.0).buffers, strict=True))
    old = dict(zip(spec.groups, batch_stats.buffers, strict=True))
    counts = tuple(layer.count for slot, layer in zip(spec.slots, of_layers, strict=True))
    saved = batch["var"]
    factors = _bessel_factors(spec, counts, saved.dtype, saved.device)
    biased = saved if kind_of(of_layers) == "var" else saved.pow(-2.0) - config.bn_eps
    batch["var"] = biased * factors
    new = (
        torch.lerp(old[group], batch[group].to(old[group].dtype), config.bn_momentum) for group in spec.groups
    )
    return Flat(tuple(new), spec)


@lru_cache(64)
def _bessel_factors(
    spec: FlatSpec, counts: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return n/(n-1) for every element of ``var``, and zero for the padding."""
    values = []
    for slot, count in zip(spec.slots, counts, strict=True):
        if slot.group == "var":
            values += [bessel(count)] * slot.size + [0.0] * slot.padding
    return outside_transforms(lambda: torch.tensor(values, dtype=dtype, device=device))


def _flatten_within(tree: Any, spec: FlatSpec) -> Any:
    """Flatten the subtrees that have the structure of ``params``, for example velocities."""

    def alike(node: Any) -> bool:
        return isinstance(node, dict) and tree_structure(node) == spec.structure

    return tree_replace(tree, alike, lambda node: flatten(node, spec))
