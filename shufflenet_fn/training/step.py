"""One optimizer step as a pure function, and one evaluation step.

``step(state, batch, flags) -> (state, metrics, flags)``. Nothing is read back to the host inside; the
averaging over ranks is an injected function, so this module knows nothing of ``torch.distributed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply, forward
from shufflenet_fn.model.variables import BatchStats, Params, Variables
from shufflenet_fn.training.ema import update_ema
from shufflenet_fn.training.flat import unravel
from shufflenet_fn.training.flat_state import (
    copied,
    grads_like,
    params_to_compute_with,
    updated_stats,
)
from shufflenet_fn.training.gradients import Gradients, grads_by_engine, grads_by_func
from shufflenet_fn.training.loss_scale import LossScaling, adjust, scale_loss, unscale
from shufflenet_fn.training.losses import Mix, correct_counts, cross_entropy, mixed_cross_entropy
from shufflenet_fn.training.optim import GradientTransformation, apply_updates
from shufflenet_fn.training.precision import Policy
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import all_finite, finite_if_all_are, tree_lists, tree_select
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from shufflenet_fn_backends.runtimes.base import Overflow


class Metrics(NamedTuple):
    """Means over the global batch, 0-dim float32 each. Accuracies are fractions in [0, 1].

    Of mixed images, the accuracies are those against each image's own label.
    """

    loss: Tensor
    accuracy1: Tensor
    accuracy5: Tensor


class Flags(NamedTuple):
    """What ranks tell each other with every step, 0-dim float32 each, on the gradient's collective.

    ``stop``: in, 1 where this rank was asked to stop; out, above 0 if any rank was.
    ``skipped``: in, 1 where this rank's device reported an overflow; out, 1 if the step changed nothing
    because a gradient (without a loss scale: or the loss) was not finite.
    ``gradient``: in, 0; out, without a loss scale, NaN or infinite if a gradient of any rank was.
    """

    stop: Tensor
    skipped: Tensor
    gradient: Tensor


class Reducible(NamedTuple):
    """What a step averages over ranks."""

    grads: Params
    batch_stats: BatchStats
    metrics: Metrics
    flags: Flags


Reduce = Callable[[Reducible], Reducible]
"""The mean over all ranks of every leaf (see ``shufflenet_fn.distributed.reduce``)."""


class Examples(NamedTuple):
    """A batch.

    ``images``: (N, 3, H, W), in whatever form ``prepare`` takes. ``labels``: (N,) int64. ``mix``: the other
    labels of images that were mixed, ``()`` if they were not.
    """

    images: Tensor
    labels: Tensor
    mix: Mix | tuple[()] = ()


class EvalSums(NamedTuple):
    """Sums over the samples of one batch, so that batches and ranks can be added.

    ``loss``: float32 (float64 for float64 logits), ``correct1`` and ``correct5``: int64, all 0-dim.
    """

    loss: Tensor
    correct1: Tensor
    correct5: Tensor


TrainStep = Callable[[TrainState, Examples, Flags], tuple[TrainState, Metrics, Flags]]
EvalStep = Callable[[Variables, Examples], EvalSums]


def no_reduce(tree: Reducible) -> Reducible:
    """One rank: the mean over ranks is the value itself."""
    return tree


def identity(images: Tensor) -> Tensor:
    """Images that are normalised already."""
    return images


def make_train_step(
    config: ShuffleNetConfig,
    optimizer: GradientTransformation,
    *,
    policy: Policy | None = None,
    backend: Backend[Any] = REFERENCE,
    loss_scaling: LossScaling | None = None,
    label_smoothing: float = 0.0,
    lanes: int = 1,
    ema_decay: float | None = None,
    prepare: Callable[[Tensor], Tensor] = identity,
    reduce: Reduce = no_reduce,
    gradients: Gradients = grads_by_func,
    compiler: Callable[[Any], Any] = lambda function: function,
    overflow: Overflow | None = None,
    skip_bad: bool = False,
    stats_in_kernel: bool = False,
) -> TrainStep:
    """Build the step.

    States may be raveled (``shufflenet_fn.training.flat_state``), and are returned as they came.

    Args:
        config: the architecture.
        optimizer: as ``sgd(...)``, possibly chained behind ``clip_by_global_norm``.
        policy: precision; ``None`` computes in the parameters' dtype.
        backend: the primitives. States are in the channel order that it takes: in torchvision's order for
            every backend by its name. For ``backend.physical``, the twin of one that routes channels,
            which spares every step the permutation of weights, convert the state with
            ``shufflenet_fn.model.channel_order.to_physical`` before the first step and with ``to_logical``
            before saving.
        loss_scaling: for float16; must be what ``create_train_state`` was given.
        label_smoothing: ε of ``cross_entropy``.
        lanes: the batch is cut in this many equal parts which are computed one after the other
            (gradient accumulation). Each lane normalises with its own statistics, and gradients,
            running statistics and metrics are means over lanes, exactly as over ranks: 2 ranks of 1
            lane compute what 1 rank of 2 lanes computes.
        ema_decay: keep ``state.ema``; ``None`` for none.
        prepare: from the batch's images to normalised ones, on the device, lane by lane.
        reduce: mean over ranks; the identity for one.
        gradients: ``grads_by_func`` composes with transforms around the step, ``grads_by_engine`` is faster
            without.
        compiler: applied to the function that is differentiated, ``torch.compile`` for example (with
            ``grads_by_engine``).
        overflow: the flag of a chip that saturates where others compute infinities (``Runtime.overflow``):
            with a loss scale, a step that raised it is skipped. Infinite gradients are looked for anyway.
        skip_bad: without a loss scale, have a step whose loss or gradient is not finite change nothing but
            the step number, as it is with one. That selects every leaf of the state; without it, a caller
            that keeps the state before the step can throw the step's away at no cost.
        stats_in_kernel: have batch norm's kernels update the running statistics, in a copy that belongs to
            the step, instead of computing new ones from the batch's moments. On an Ascend NPU this saves
            four fills a layer. For raveled states and ``grads_by_engine``, because the kernels write in
            place.

    Raises:
        ValueError: ``stats_in_kernel`` with gradients by ``torch.func`` or a compiler.
    """
    if stats_in_kernel and gradients is not grads_by_engine:
        raise ValueError("stats_in_kernel writes in place: it needs gradients=grads_by_engine")
    scaling = loss_scaling or LossScaling()
    if scaling.kind == "none":
        overflow = None

    @compiler
    def loss_fn(
        params: Params,
        batch_stats: BatchStats,
        loss_scale: Any,
        images: Tensor,
        labels: Tensor,
        mix: Mix | tuple[()],
    ) -> Any:
        variables = Variables(params, batch_stats)
        logits, moments = forward(
            config,
            variables,
            prepare(images),
            train=True,
            backend=backend,
            policy=policy,
            update_stats=stats_in_kernel,
        )
        loss = mixed_cross_entropy(logits, labels, mix, label_smoothing=label_smoothing)
        return scale_loss(loss_scale, loss), (loss, logits, moments)

    def lane(state: TrainState, part: Examples) -> tuple[Any, Any, Metrics]:
        # The kernels write into this pass's own copy: the state that was passed in stays as it was.
        old = copied(state.batch_stats) if stats_in_kernel else state.batch_stats
        stats = unravel(old)
        grads, (loss, logits, moments) = gradients(
            lambda params: loss_fn(params, stats, state.loss_scale, *part),
            params_to_compute_with(state.params, policy),
        )
        batch_stats = old if stats_in_kernel else updated_stats(config, old, moments)
        top1, top5 = correct_counts(logits, part.labels)
        count = part.labels.shape[0]
        metrics = Metrics(loss.float(), top1 / count, top5 / count)
        return grads_like(state.params, grads), batch_stats, metrics

    def step(state: TrainState, batch: Examples, flags: Flags) -> tuple[TrainState, Metrics, Flags]:
        if overflow is not None:
            overflow.clear()
        local = _mean(lane(state, part) for part in _cut(batch, lanes))
        if overflow is not None:
            flags = flags._replace(skipped=torch.maximum(flags.skipped, overflow.raised()))
        if scaling.kind == "none":
            # Before the ranks' mean, with which it travels: a value that is not finite survives any sum.
            flags = flags._replace(gradient=finite_if_all_are(local[0]).float())
        grads, batch_stats, metrics, flags = reduce(Reducible(*local, flags))
        grads = unscale(state.loss_scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, state.step)
        new = state._replace(
            params=apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema_decay is not None and isinstance(state.ema, Variables):
            new = new._replace(ema=update_ema(state.ema, new.variables, decay=ema_decay))
        if scaling.kind != "none" or skip_bad:
            if scaling.kind != "none":
                finite = all_finite(grads) & (flags.skipped == 0)
            else:
                finite = torch.isfinite(metrics.loss + flags.gradient)
            new = _select(finite, new, state)._replace(
                loss_scale=adjust(scaling, state.loss_scale, finite)
            )
            flags = flags._replace(skipped=1.0 - finite.float())
        # A skipped step still counts: the schedule and the order of the data go on.
        return new._replace(step=state.step + 1), metrics, flags

    return step


def make_eval_step(
    config: ShuffleNetConfig,
    *,
    policy: Policy | None = None,
    backend: Backend[Any] = REFERENCE,
    prepare: Callable[[Tensor], Tensor] = identity,
) -> EvalStep:
    """``eval_step(variables, batch) -> EvalSums`` with plain cross-entropy, without gradients.

    ``variables`` are in the channel order that ``backend`` takes: see ``make_train_step``.
    """

    def step(variables: Variables, batch: Examples) -> EvalSums:
        with torch.no_grad():
            logits, _ = apply(
                config, variables, prepare(batch.images), backend=backend, policy=policy
            )
            return eval_sums(logits, batch.labels)

    return step


def eval_sums(logits: Tensor, labels: Tensor) -> EvalSums:
    """How good ``logits`` (N, num_classes) are, with plain cross-entropy."""
    loss = cross_entropy(logits, labels)
    return EvalSums(loss * labels.shape[0], *correct_counts(logits, labels))


def no_flags(device: torch.device | str = "cpu") -> Flags:
    """Flags of a rank with nothing to say."""
    return Flags(*(torch.zeros((), device=device) for _ in Flags._fields))


def _select(condition: Tensor, new: TrainState, old: TrainState) -> TrainState:
    """What a step computes, from ``new`` where ``condition`` holds and from ``old`` otherwise."""
    names = ("params", "batch_stats", "opt_state", "ema")
    chosen = tree_select(
        condition, [getattr(new, name) for name in names], [getattr(old, name) for name in names]
    )
    return new._replace(**dict(zip(names, chosen, strict=True)))


def _cut(batch: Examples, lanes: int) -> list[Examples]:
    if lanes == 1:
        return [batch]
    count = batch.labels.shape[0]
    if count % lanes:
        raise ValueError(f"a batch of {count} samples cannot be cut in {lanes} equal lanes")
    mixes: Sequence[Mix | tuple[()]] = [()] * lanes
    if isinstance(batch.mix, Mix):
        mixes = [Mix(part, batch.mix.weight) for part in batch.mix.partners.chunk(lanes)]
    parts = zip(batch.images.chunk(lanes), batch.labels.chunk(lanes), mixes, strict=True)
    return [Examples(*part) for part in parts]


def _mean(results: Iterator[tuple[Any, Any, Metrics]]) -> tuple[Any, Any, Metrics]:
    total, count = next(results), 1
    for result in results:
        total = tree_lists(torch._foreach_add, total, result)
        count += 1
    if count == 1:
        return total
    return tree_lists(lambda leaves: torch._foreach_div(leaves, float(count)), total)
