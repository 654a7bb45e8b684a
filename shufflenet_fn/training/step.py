"""One optimizer step and one evaluation step as pure functions.

``step(state, batch, flags) -> (state, metrics, flags)``. A step reads nothing back to the host. The mean over
ranks is an injected function, so this module does not depend on ``torch.distributed``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply, forward
from shufflenet_fn.model.variables import BatchStats, Params, Variables
from shufflenet_fn.training.flat import unflatten
from shufflenet_fn.training.flat_state import copied, grads_like, params_to_compute_with, updated_stats
from shufflenet_fn.training.gradients import Gradients, grads_by_engine, grads_by_func
from shufflenet_fn.training.loss_scale import LossScaling, adjust, scale_loss, unscale
from shufflenet_fn.training.losses import Mix, correct_counts, cross_entropy, mixed_cross_entropy
from shufflenet_fn.training.optim import GradientTransformation, apply_updates
from shufflenet_fn.training.precision import Policy
from shufflenet_fn.training.state import (
    TrainState,
    merged,
    merged_state,
    trainable,
    trainable_state,
    update_ema,
)
from shufflenet_fn.tree import all_finite, finite_if_all_are, tree_foreach, tree_select
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from shufflenet_fn_backends.runtimes.base import Overflow


class Metrics(NamedTuple):
    """Means over the global batch, 0-dim float32 each. Accuracies are fractions in [0, 1].

    The accuracy of mixed images is measured against each image's own label.
    """

    loss: Tensor
    accuracy1: Tensor
    accuracy5: Tensor


class Flags(NamedTuple):
    """Flags that are reduced over ranks together with the gradients, 0-dim float32 each.

    ``stop``: as input, 1 if this rank was asked to stop; as output, above 0 if any rank was.
    ``skipped``: as input, 1 if this rank's device reported an overflow; as output, 1 if the step changed
    nothing because a gradient (or, without a loss scale, the loss) was not finite.
    ``gradient``: as input, 0; as output, without a loss scale, NaN or infinite if a gradient of any rank was.
    """

    stop: Tensor
    skipped: Tensor
    gradient: Tensor


class Reducible(NamedTuple):
    """The values that a step averages over ranks."""

    grads: Params
    batch_stats: BatchStats
    metrics: Metrics
    flags: Flags


Reduce = Callable[[Reducible], Reducible]
"""Returns the mean of every leaf over all ranks (see ``shufflenet_fn.distributed.reduce``)."""


class Examples(NamedTuple):
    """A batch.

    ``images``: (N, 3, H, W), in the form that ``prepare`` takes. ``labels``: (N,) int64. ``mix``: the second
    labels of mixed images, or ``()``.
    """

    images: Tensor
    labels: Tensor
    mix: Mix | tuple[()] = ()


class EvalSums(NamedTuple):
    """Sums over the samples of a batch. Add them to combine batches and ranks.

    ``loss``: float32 (float64 for float64 logits), ``correct1`` and ``correct5``: int64, all 0-dim.
    """

    loss: Tensor
    correct1: Tensor
    correct5: Tensor


TrainStep = Callable[[TrainState, Examples, Flags], tuple[TrainState, Metrics, Flags]]
EvalStep = Callable[[Variables, Examples], EvalSums]


def no_reduce(tree: Reducible) -> Reducible:
    """Return ``tree``: the mean over a single rank."""
    return tree


def identity(images: Tensor) -> Tensor:
    """Return ``images``, which are normalised already."""
    return images


def make_train_step(
    config: ShuffleNetConfig,
    optimizer: GradientTransformation,
    *,
    policy: Policy | None = None,
    backend: Backend[Any] = REFERENCE,
    loss_scaling: LossScaling | None = None,
    label_smoothing: float = 0.0,
    microbatches: int = 1,
    ema_decay: float | None = None,
    frozen: Collection[str] = (),
    prepare: Callable[[Tensor], Tensor] = identity,
    reduce: Reduce = no_reduce,
    gradients: Gradients = grads_by_func,
    compiler: Callable[[Any], Any] = lambda function: function,
    overflow: Overflow | None = None,
    skip_bad: bool = False,
    stats_in_kernel: bool = False,
) -> TrainStep:
    """Build a training step.

    The state may be flat (``shufflenet_fn.training.flat_state``). The step returns it in the same layout.

    Args:
        config: the architecture.
        optimizer: for example ``sgd(...)``, or ``chain(clip_by_global_norm(...), sgd(...))``.
        policy: precision; ``None`` computes in the parameters' dtype.
        backend: the primitives to compute with. The state must be in the channel order of the backend, which
            is torchvision's order for all named backends. ``backend.permuted``, the variant of a backend that
            routes channels, expects a permuted state, so steps permute no weights. To use it, convert the
            state with ``shufflenet_fn.model.channel_order.to_permuted`` before the first step and with
            ``to_canonical`` before saving.
        loss_scaling: for float16; must be the one that ``create_train_state`` was given.
        label_smoothing: ε of ``cross_entropy``.
        microbatches: number of microbatches, equal parts of the batch that are computed one after the other
            (gradient accumulation). Each is normalised with its own statistics. Gradients, running statistics
            and metrics are means over microbatches, exactly as over ranks: 2 ranks with 1 microbatch each
            give the same result as 1 rank with 2 microbatches.
        ema_decay: decay of ``state.ema``; ``None`` to keep no average.
        frozen: parts of the network that are not trained, among ``conv1``, ``stage2``, ``stage3``, ``stage4``
            and ``conv5``. Their parameters, running statistics and averages stay as they are, and their batch
            norms normalise with the running statistics. Nothing is differentiated below the lowest trainable
            layer. ``create_train_state`` and ``flatten_state`` need the same parts.
        prepare: maps the images of a batch to normalised ones, on the device, microbatch by microbatch.
        reduce: computes the mean over ranks; the default is the identity, for one rank.
        gradients: ``grads_by_func`` composes with transforms around the step; ``grads_by_engine`` is faster
            outside them.
        compiler: applied to the function that is differentiated, for example ``torch.compile`` (with
            ``grads_by_engine``).
        overflow: overflow flag of a chip that saturates instead of producing infinities
            (``Runtime.overflow``). With a loss scale, a step that raises the flag is skipped. The step checks
            for infinite gradients in any case.
        skip_bad: without a loss scale, skip a step whose loss or gradient is not finite, as with a loss
            scale: only the step number changes. This costs a selection of every leaf of the state. Without
            it, a caller that keeps the previous state can discard the new one at no cost.
        stats_in_kernel: let batch norm's kernels update the running statistics, in a copy that the step owns,
            instead of computing them from the batch's moments. On an Ascend NPU this saves four fills per
            layer. It requires ``grads_by_engine``, because the kernels write in place, and is meant for flat
            states.

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
            frozen=frozen,
        )
        loss = mixed_cross_entropy(logits, labels, mix, label_smoothing=label_smoothing)
        return scale_loss(loss_scale, loss), (loss, logits, moments)

    def microbatch(state: TrainState, own: TrainState, part: Examples) -> tuple[Any, Any, Metrics]:
        # The kernels write in place: give them a copy, so that the input state does not change.
        old = copied(own.batch_stats) if stats_in_kernel else own.batch_stats
        stats = unflatten(merged(state.batch_stats, old))
        whole = params_to_compute_with(state.params, policy)
        grads, (loss, logits, moments) = gradients(
            lambda params: loss_fn(merged(whole, params), stats, state.loss_scale, *part),
            trainable(whole, frozen),
        )
        batch_stats = old if stats_in_kernel else updated_stats(config, old, moments)
        top1, top5 = correct_counts(logits, part.labels)
        count = part.labels.shape[0]
        metrics = Metrics(loss.float(), top1 / count, top5 / count)
        return grads_like(own.params, grads), batch_stats, metrics

    def step(state: TrainState, batch: Examples, flags: Flags) -> tuple[TrainState, Metrics, Flags]:
        if overflow is not None:
            overflow.clear()
        own = trainable_state(state, frozen)
        local = _mean(microbatch(state, own, part) for part in _cut(batch, microbatches))
        if overflow is not None:
            flags = flags._replace(skipped=torch.maximum(flags.skipped, overflow.raised()))
        if scaling.kind == "none":
            # Set before the mean over ranks: a value that is not finite stays so in any sum.
            flags = flags._replace(gradient=finite_if_all_are(local[0]).float())
        grads, batch_stats, metrics, flags = reduce(Reducible(*local, flags))
        grads = unscale(state.loss_scale, grads)
        updates, opt_state = optimizer.update(grads, own.opt_state, own.params, own.step)
        new = own._replace(
            params=apply_updates(own.params, updates), batch_stats=batch_stats, opt_state=opt_state
        )
        if ema_decay is not None and isinstance(own.ema, Variables):
            new = new._replace(ema=update_ema(own.ema, new.variables, decay=ema_decay))
        if scaling.kind != "none" or skip_bad:
            if scaling.kind != "none":
                finite = all_finite(grads) & (flags.skipped == 0)
            else:
                finite = torch.isfinite(metrics.loss + flags.gradient)
            new = _select(finite, new, own)._replace(loss_scale=adjust(scaling, state.loss_scale, finite))
            flags = flags._replace(skipped=1.0 - finite.float())
        # A skipped step still counts, so the schedule and the data order advance.
        return merged_state(state, new)._replace(step=state.step + 1), metrics, flags

    return step


def make_eval_step(
    config: ShuffleNetConfig,
    *,
    policy: Policy | None = None,
    backend: Backend[Any] = REFERENCE,
    prepare: Callable[[Tensor], Tensor] = identity,
) -> EvalStep:
    """Build ``eval_step(variables, batch) -> EvalSums`` with plain cross-entropy and no gradients.

    ``variables`` must be in the channel order of ``backend``: see ``make_train_step``.
    """

    def step(variables: Variables, batch: Examples) -> EvalSums:
        with torch.no_grad():
            logits, _ = apply(config, variables, prepare(batch.images), backend=backend, policy=policy)
            return eval_sums(logits, batch.labels)

    return step


def eval_sums(logits: Tensor, labels: Tensor) -> EvalSums:
    """Return the sums of loss and correct predictions for ``logits`` (N, num_classes)."""
    loss = cross_entropy(logits, labels)
    return EvalSums(loss * labels.shape[0], *correct_counts(logits, labels))


def no_flags(device: torch.device | str = "cpu") -> Flags:
    """Return flags that are all zero."""
    return Flags(*(torch.zeros((), device=device) for _ in Flags._fields))


def _select(condition: Tensor, new: TrainState, old: TrainState) -> TrainState:
    """Take the leaves that a step computes from ``new`` if ``condition`` holds, else from ``old``."""
    names = ("params", "batch_stats", "opt_state", "ema")
    chosen = tree_select(
        condition, [getattr(new, name) for name in names], [getattr(old, name) for name in names]
    )
    return new._replace(**dict(zip(names, chosen, strict=True)))


def _cut(batch: Examples, microbatches: int) -> list[Examples]:
    if microbatches == 1:
        return [batch]
    count = batch.labels.shape[0]
    if count % microbatches:
        raise ValueError(f"a batch of {count} samples cannot be cut in {microbatches} equal microbatches")
    mixes: Sequence[Mix | tuple[()]] = [()] * microbatches
    if isinstance(batch.mix, Mix):
        mixes = [Mix(part, batch.mix.weight) for part in batch.mix.partners.chunk(microbatches)]
    parts = zip(batch.images.chunk(microbatches), batch.labels.chunk(microbatches), mixes, strict=True)
    return [Examples(*part) for part in parts]


def _mean(results: Iterator[tuple[Any, Any, Metrics]]) -> tuple[Any, Any, Metrics]:
    total, count = next(results), 1
    for result in results:
        total = tree_foreach(torch._foreach_add, total, result)
        count += 1
    if count == 1:
        return total
    return tree_foreach(lambda leaves: torch._foreach_div(leaves, float(count)), total)
