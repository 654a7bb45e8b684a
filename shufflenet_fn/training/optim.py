"""Optimizers as pairs of pure functions, after optax (github.com/google-deepmind/optax).

``init(params) -> opt_state`` and ``update(grads, opt_state, params, step) -> (updates, opt_state)``. The new
parameters are ``apply_updates(params, updates)``. All functions use ``torch._foreach_*`` on whole trees, so
an update takes a few launches instead of one per tensor.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from shufflenet_fn.model.variables import Params
from shufflenet_fn.training.decay import DecayFilter, add_decay, decay_all, scale_selected
from shufflenet_fn.training.schedules import Schedule
from shufflenet_fn.tree import global_norm, tree_foreach, tree_leaves, tree_map, tree_zeros_like

OptState = Any


class Updates(NamedTuple):
    """The update ``rate * direction`` as two factors; ``apply_updates`` multiplies and adds them.

    ``direction``: a tree like ``params``. ``rate``: the negative learning rate, 0-dim float32.
    """

    direction: Params
    rate: Tensor


class InitFn(Protocol):
    def __call__(self, params: Params) -> OptState: ...


class UpdateFn(Protocol):
    def __call__(
        self, grads: Params, state: OptState, params: Params, step: Tensor
    ) -> tuple[Any, OptState]: ...


class GradientTransformation(NamedTuple):
    """A pair of functions: ``init`` creates the optimizer state, ``update`` transforms gradients.

    The last transformation of a chain returns ``Updates``; the others return gradients.
    """

    init: InitFn
    update: UpdateFn


class SGDState(NamedTuple):
    """State of ``sgd``. ``momentum``: velocities, a tree like ``params``; ``()`` for plain SGD."""

    momentum: Any


def sgd(
    schedule: Schedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay: DecayFilter = decay_all,
) -> GradientTransformation:
    """Build stochastic gradient descent with the update rule of ``torch.optim.SGD``.

    ``g += weight_decay * p``; ``v = momentum * v + g``; ``p -= lr * v``, or with Nesterov
    ``p -= lr * (g + momentum * v)``.

    Args:
        schedule: maps the step number to the learning rate, both 0-dim tensors
            (``shufflenet_fn.training.schedules``).
        momentum: in [0, 1).
        nesterov: use Nesterov momentum (Sutskever et al., 2013); requires ``momentum`` above 0.
        weight_decay: factor of the L2 penalty, which is added to the gradient.
        decay: selects the leaves to decay, by dotted path and tensor.

    Raises:
        ValueError: a value is out of range.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), not {momentum}")
    if nesterov and momentum == 0.0:
        raise ValueError("nesterov needs a momentum above 0")
    _check_decay(weight_decay)

    def init(params: Params) -> SGDState:
        return SGDState(tree_zeros_like(params) if momentum else ())

    def update(grads: Params, state: SGDState, params: Params, step: Tensor) -> tuple[Updates, SGDState]:
        if weight_decay:
            grads = add_decay(grads, params, weight_decay, decay)
        direction, velocity = grads, state.momentum
        if momentum:
            # Out of place: the state that was passed in must not change.
            velocity = tree_foreach(
                lambda v, g: torch._foreach_add(torch._foreach_mul(v, momentum), g), velocity, grads
            )
            direction = (
                tree_foreach(lambda g, v: torch._foreach_add(g, v, alpha=momentum), grads, velocity)
                if nesterov
                else velocity
            )
        return Updates(direction, -schedule(step)), SGDState(velocity)

    return GradientTransformation(init, update)


class AdamWState(NamedTuple):
    """State of ``adamw``.

    ``updates``: their number so far, 0-dim, floating point; a step that was skipped is none. ``mean`` and
    ``square``: moving averages of the gradients and of their squares, trees like ``params``, at least
    float32.
    """

    updates: Tensor
    mean: Any
    square: Any


def adamw(
    schedule: Schedule,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: DecayFilter = decay_all,
) -> GradientTransformation:
    """Build Adam with decoupled weight decay, with the update rule of ``torch.optim.AdamW``.

    ``m = b1 * m + (1 - b1) * g``; ``v = b2 * v + (1 - b2) * g²``;
    ``p -= lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay * p)``
    (Loshchilov and Hutter, arXiv:1711.05101).

    Args:
        schedule: as in ``sgd``.
        betas: decay of both averages, in [0, 1).
        eps: added to the denominator, above 0.
        weight_decay: as a multiple of the parameters, per unit of learning rate.
        decay: selects the leaves to decay, by dotted path and tensor.

    Raises:
        ValueError: a value is out of range.
    """
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas must lie in [0, 1), not {betas}")
    if not eps > 0.0:
        raise ValueError(f"eps must be positive, not {eps}")
    _check_decay(weight_decay)
    first, second = betas

    def init(params: Params) -> AdamWState:
        zeros = tree_zeros_like(_at_least_float32(params))
        some = tree_leaves(zeros)[0]
        return AdamWState(torch.zeros((), dtype=some.dtype, device=some.device), zeros, zeros)

    def update(grads: Params, state: AdamWState, params: Params, step: Tensor) -> tuple[Updates, AdamWState]:
        grads, count = _at_least_float32(grads), state.updates + 1.0
        mean = tree_foreach(lambda m, g: torch._foreach_lerp(m, g, 1.0 - first), state.mean, grads)
        square = tree_foreach(
            lambda v, g: torch._foreach_addcmul(torch._foreach_mul(v, second), g, g, value=1.0 - second),
            state.square,
            grads,
        )

        def direction(means: list[Tensor], squares: list[Tensor]) -> Any:
            roots = torch._foreach_div(torch._foreach_sqrt(squares), _weight(second, count).sqrt())
            unbiased = torch._foreach_div(means, _weight(first, count))
            return torch._foreach_div(unbiased, torch._foreach_add(roots, eps))

        moved = tree_foreach(direction, mean, square)
        moved = tree_map(lambda d, p: d.to(p.dtype), moved, params)
        if weight_decay:
            moved = add_decay(moved, params, weight_decay, decay)
        return Updates(moved, -schedule(step)), AdamWState(count, mean, square)

    return GradientTransformation(init, update)


def _weight(beta: float, count: Tensor) -> Tensor:
    """Return ``1 - beta^count``, without the cancellation that would cost float32 five digits."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def _at_least_float32(tree: Any) -> Any:
    # Squares of small gradients underflow in float16.
    return tree_map(lambda leaf: leaf.to(torch.promote_types(leaf.dtype, torch.float32)), tree)


def _check_decay(weight_decay: float) -> None:
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay must not be negative, not {weight_decay}")


def scaled_rate(
    optimizer: GradientTransformation, factor: float, select: DecayFilter
) -> GradientTransformation:
    """Multiply the learning rate of ``optimizer`` by ``factor`` for the leaves that ``select`` selects."""

    def update(grads: Params, state: OptState, params: Params, step: Tensor) -> tuple[Updates, OptState]:
        updates, state = optimizer.update(grads, state, params, step)
        return updates._replace(direction=scale_selected(updates.direction, factor, select)), state

    return GradientTransformation(optimizer.init, update)


def clip_by_global_norm(max_norm: float) -> GradientTransformation:
    """Scale all gradients by one factor so that their Euclidean norm is at most ``max_norm``.

    Reference: Pascanu et al., arXiv:1211.5063.
    """
    if not max_norm > 0.0:
        raise ValueError(f"max_norm must be positive, not {max_norm}")

    def update(grads: Params, state: OptState, params: Params, step: Tensor) -> tuple[Params, Any]:
        factor = (max_norm / (global_norm(grads) + 1e-6)).clamp(max=1.0)
        return tree_foreach(lambda g: torch._foreach_mul(g, factor), grads), ()

    return GradientTransformation(lambda params: (), update)


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Apply transformations in order. Each takes the output of the previous one as its gradients."""

    def init(params: Params) -> OptState:
        return tuple(t.init(params) for t in transformations)

    def update(grads: Params, state: OptState, params: Params, step: Tensor) -> tuple[Any, OptState]:
        new_states = []
        for transformation, inner in zip(transformations, state, strict=True):
            grads, new_inner = transformation.update(grads, inner, params, step)
            new_states.append(new_inner)
        return grads, tuple(new_states)

    return GradientTransformation(init, update)


def apply_updates(params: Params, updates: Updates) -> Params:
    """Return ``params + rate * direction`` as new tensors.

    On the CPU this is one fused multiply-add per tensor, rounded once as in ``torch.optim.SGD``: with equal
    gradients the two give the same bits. On other devices it takes one launch if the rate is on the host (a
    flat state), and two if it is on the device, because a foreach multiply-add with a 0-dim rate falls back
    to one launch per tensor.
    """
    rate = updates.rate
    on_host = rate.device.type == "cpu"
    if on_host and tree_leaves(params)[0].device.type != "cpu":
        return tree_foreach(
            lambda p, d: torch._foreach_add(p, d, alpha=rate.item()), params, updates.direction
        )
    if on_host:
        return tree_foreach(
            lambda p, d: torch._foreach_addcmul(p, d, [rate.to(leaf.dtype) for leaf in p]),
            params,
            updates.direction,
        )
    return tree_foreach(
        lambda p, d: torch._foreach_add(p, torch._foreach_mul(d, rate)), params, updates.direction
    )
