"""Exact evaluation over all ranks, between epochs and at the end: every sample once, nothing padded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.loader import eval_loader
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.run.events import Evaluated
from shufflenet_fn.run.reporting import left_out_line
from shufflenet_fn.run.timing import Scores
from shufflenet_fn.run.training import Best, Training, eval_batch_size
from shufflenet_fn.training.flat_state import unflatten_state
from shufflenet_fn.training.step import EvalSums, Examples, eval_sums
from shufflenet_fn_backends.support.errors import UserError


class Abandoned(Exception):
    """A rank was asked to stop during an evaluation. Raised on all ranks."""


def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    feed: Callable[[Batch], Examples],
    world: World,
    leave: Callable[[], bool] = lambda: False,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Scores:
    """Return the scores over the shares of all ranks.

    Ranks may have different numbers of batches, so the only collective is at the end. Sums are added in rank
    order in float64, so the result is the same on every rank.

    Args:
        predict: maps a batch's images, on the device, to logits.
        batches: this rank's share (``eval_loader``).
        feed: copies each batch to the device (``transfer.DeviceFeed``).
        world: the ranks.
        leave: called before each batch; whether to abandon the evaluation.
        waiting: entered while this rank waits for others.

    Raises:
        Abandoned: ``leave`` was true on some rank.
        UserError: all images are bad.
    """
    sums: list[tuple[EvalSums, int]] = []
    left = False
    for batch in batches:
        if left := leave():
            break
        examples = feed(batch)
        if not len(batch.labels):  # all of its images were bad
            continue
        with torch.no_grad():
            logits = predict(examples.images)
            sums.append((eval_sums(logits, examples.labels), batch.labels.shape[0]))
    local = (
        sum(float(s.loss) for s, _ in sums),
        sum(int(s.correct1) for s, _ in sums),
        sum(int(s.correct5) for s, _ in sums),
        sum(count for _, count in sums),
    )
    with waiting():
        shares = gather((left, *local), world)
    if any(rank_left for rank_left, *_ in shares):
        raise Abandoned
    _, loss, top1, top5, count = (sum(column) for column in zip(*shares, strict=True))
    if not count:
        raise UserError("no image is left to evaluate: all were bad. Lower --max-bad.")
    return Scores(loss / count, 100 * top1 / count, 100 * top5 / count, int(count))


class Evaluation(NamedTuple):
    """``whole``: completed. ``left``: abandoned because a rank was asked to stop."""

    whole: bool = False
    left: bool = False
    is_best: bool = False


NOT_EVALUATED: Final = Evaluation()


def evaluation_is_due(epoch: int, epochs: int, eval_freq: int) -> bool:
    """Return whether an epoch is evaluated: every ``eval_freq``-th, the last, and all in the last tenth."""
    return (epoch + 1) % eval_freq == 0 or epoch + 1 == epochs or epoch > 0.9 * epochs


def needs_evaluation(run: Training, first: int) -> bool:
    """Return whether the run was stopped between the epoch that ends at ``first`` and its evaluation."""
    settings, (epochs, number) = run.plan.settings, run.epochs.place(first)
    if run.plan.resume is None or epochs == 0 or number:
        return False
    if not evaluation_is_due(epochs - 1, settings.epochs, settings.eval_freq):
        return False
    return run.plan.resume.manifest["scores"] is None


def evaluate_epoch(run: Training, epoch: int, *, in_turn: bool = True) -> Evaluation:
    """Evaluate the raw weights and, if kept, the averaged ones, which then decide what is best.

    An evaluation that happens only because this start ends is not ``in_turn`` and never the best, so that it
    does not change a run that is resumed later. An abandoned one is not reported, because it is repeated.
    """
    state = unflatten_state(run.state)
    candidates: list[tuple[str, Variables]] = [("raw", state.variables)]
    if isinstance(state.ema, Variables):
        candidates.append(("ema", state.ema))
    done: list[tuple[str, Scores, float]] = []
    for name, variables in candidates:
        start = time.perf_counter()
        with eval_loader(
            run.eval_set,
            run.eval_transform,
            batch_size=eval_batch_size(run.plan.settings, run.world),
            rank=run.world.rank,
            world_size=run.world.size,
            threads=run.threads,
            bad_images=run.bad_eval,
            buffers=run.eval_feed.ready(),
            native=run.image_reader,
        ) as batches:
            try:
                scores = evaluate(
                    run.predictor(variables),
                    batches,
                    feed=run.eval_feed,
                    world=run.world,
                    leave=run.stopping.leave,
                    waiting=run.stopping.waiting,
                )
            except Abandoned:
                return Evaluation(left=True)
        done.append((name, scores, time.perf_counter() - start))
    run.last = done[-1][1]
    is_best = in_turn and (run.best is None or run.last.accuracy1 > run.best.accuracy1)
    if is_best:
        run.best = Best(run.last.accuracy1, epoch)
    if run.world.is_main:
        for name, scores, seconds in done:
            if not math.isfinite(scores.loss):
                # Not the end: in float16 an early evaluation can overflow where training does not.
                run.reporter.warning(
                    f"the evaluation loss after epoch {epoch} is {scores.loss} ({name} weights)"
                )
            if left_out := left_out_line(len(run.eval_set), scores.num_images):
                run.reporter.warning(left_out)
            best = is_best and name == done[-1][0]
            run.reporter.event(Evaluated(epoch, *scores, seconds, name, best, in_turn))
    return Evaluation(whole=True, is_best=is_best)
