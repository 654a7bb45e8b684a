"""The train state in a few buffers, for devices on which a launch costs more than a copy.

A step on a raveled state does to every element what it does on a plain one; only norms over all gradients
(clipping) are summed in another order. Ravel a state before the first step, and unravel it before anything
but steps looks at it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.running_stats import (
    MomentsTree,
    bessel,
    kind_of,
    update_running_stats_foreach,
)
from shufflenet_fn.model.variables import BatchStats, Params, Variables, get_path
from shufflenet_fn.training.flat import Raveled, RavelSpec, ravel, ravel_spec, unravel
from shufflenet_fn.training.precision import Policy
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import tree_map, tree_replace, tree_structure
from shufflenet_fn_backends.primitives import Moments
from shufflenet_fn_backends.transforms import outside_transforms

NORM: Final = "norm"


def ravel_state(state: TrainState) -> TrainState:
    """``state`` with its parameters, its statistics and all trees of their structure raveled.

    Parameters lie in two buffers, so that a precision policy can treat each as one: ``norm`` (batch norms)
    and ``rest`` (convolutions and classifier). Statistics lie in ``mean`` and ``var``. The step number lies
    on the host, and with it all arithmetic of the schedule.
    """
    params_spec = ravel_spec(state.params, _kind)
    stats_spec = ravel_spec(state.batch_stats, lambda path, leaf: path.rpartition(".")[2])

    def raveled(variables: Variables) -> Any:
        return Variables(
            ravel(variables.params, params_spec),  # type: ignore[arg-type]  # trees all the same
            ravel(variables.batch_stats, stats_spec),  # type: ignore[arg-type]
        )

    params, batch_stats = raveled(state.variables)
    return state._replace(
        step=state.step.cpu(),
        params=params,
        batch_stats=batch_stats,
        opt_state=_ravel_within(state.opt_state, params_spec),
        ema=raveled(state.ema) if isinstance(state.ema, Variables) else state.ema,
    )


def unravel_state(state: TrainState) -> TrainState:
    """The plain state again; its leaves are views of the buffers."""
    unraveled: TrainState = unravel(state)
    return unraveled


def params_to_compute_with(params: Params | Raveled, policy: Policy | None) -> Params:
    """The tree of parameters that the network is differentiated by.

    Raveled parameters are cast here, buffer by buffer; others inside the network, leaf by leaf.
    """
    if not isinstance(params, Raveled):
        return params
    buffers = params.buffers
    if policy is not None and not policy.use_autocast:
        buffers = tuple(
            buffer.to(policy.norm_dtype if group == NORM else policy.compute_dtype)
            for group, buffer in zip(params.spec.groups, buffers, strict=True)
        )
    tree: Params = unravel(Raveled(buffers, params.spec))
    return tree


def grads_like(params: Params | Raveled, grads: Params) -> Any:
    """Gradients of ``params_to_compute_with`` in the layout and dtypes of the parameters themselves."""
    if not isinstance(params, Raveled):
        return grads
    raveled = ravel(grads, params.spec)
    pairs = zip(raveled.buffers, params.buffers, strict=True)
    return Raveled(tuple(grad.to(buffer.dtype) for grad, buffer in pairs), params.spec)


def copied(batch_stats: BatchStats | Raveled) -> Any:
    """Return a copy of ``batch_stats`` in the same layout: a copy a buffer where it is raveled."""
    return tree_map(torch.clone, batch_stats)


def updated_stats(
    config: ShuffleNetConfig, batch_stats: BatchStats | Raveled, moments: MomentsTree
) -> Any:
    """Running statistics after a batch (``running_stats``), in the layout that they came in."""
    if not isinstance(batch_stats, Raveled):
        return update_running_stats_foreach(config, batch_stats, moments)
    spec = batch_stats.spec
    of_layers: list[Moments] = [
        get_path(moments, tuple(slot.path.split(".")[:-2])) for slot in spec.slots
    ]
    leaves = [
        layer.mean if slot.group == "mean" else layer.saved
        for slot, layer in zip(spec.slots, of_layers, strict=True)
    ]
    # Ones between the layers, because what is there is divided by.
    batch = dict(zip(spec.groups, ravel(leaves, spec, pad=1.0).buffers, strict=True))
    old = dict(zip(spec.groups, batch_stats.buffers, strict=True))
    counts = tuple(layer.count for slot, layer in zip(spec.slots, of_layers, strict=True))
    saved = batch["var"]
    factors = _bessel_factors(spec, counts, saved.dtype, saved.device)
    biased = saved if kind_of(of_layers) == "var" else saved.pow(-2.0) - config.bn_eps
    batch["var"] = biased * factors
    new = (
        torch.lerp(old[group], batch[group].to(old[group].dtype), config.bn_momentum)
        for group in spec.groups
    )
    return Raveled(tuple(new), spec)


@lru_cache(64)
def _bessel_factors(
    spec: RavelSpec, counts: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """n/(n-1) for every element of ``var``; zero between the layers."""
    values = []
    for slot, count in zip(spec.slots, counts, strict=True):
        if slot.group == "var":
            values += [bessel(count)] * slot.size + [0.0] * slot.padding
    return outside_transforms(lambda: torch.tensor(values, dtype=dtype, device=device))


def _kind(path: str, leaf: Tensor) -> str:
    return NORM if ".bn." in path else "rest"


def _ravel_within(tree: Any, spec: RavelSpec) -> Any:
    """Subtrees of the structure of ``params`` (velocities, say) raveled as those are."""

    def alike(node: Any) -> bool:
        return isinstance(node, dict) and tree_structure(node) == spec.structure

    return tree_replace(tree, alike, lambda node: ravel(node, spec))
