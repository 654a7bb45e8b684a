"""Exact evaluation over all ranks: every sample once, nothing padded, nothing dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.training.step import EvalSums, Examples, eval_sums
from shufflenet_fn_backends.support.errors import UserError


class Scores(NamedTuple):
    """Mean loss, accuracies in percent, and the number of images they are over."""

    loss: float
    accuracy1: float
    accuracy5: float
    num_images: int


def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    feed: Callable[[Batch], Examples],
    world: World,
) -> Scores:
    """Scores over the shares of all ranks, from the first batch to the last: ``evaluate_or_leave``."""
    scores = evaluate_or_leave(predict, batches, feed=feed, world=world, leave=lambda: False)
    assert scores is not None
    return scores


def evaluate_or_leave(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    feed: Callable[[Batch], Examples],
    world: World,
    leave: Callable[[], bool],
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Scores | None:
    """Scores over the shares of all ranks; ``None`` on all of them if one has left before its end.

    ``predict`` is from a batch's images, on the device, to logits. ``batches`` is this rank's share
    (``eval_loader``), and ``feed`` brings each of them to the device (``uploading.Feed``).

    ``leave`` is asked before each batch, ``waiting`` entered while this rank waits for others. Ranks may have
    different numbers of batches, so there is one exchange at the end and none before.
    Sums are added in rank order in float64: the same on every rank.
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
        return None
    _, loss, top1, top5, count = (sum(column) for column in zip(*shares, strict=True))
    if not count:
        raise UserError("no image is left to evaluate: all were bad. Lower --max-bad.")
    return Scores(loss / count, 100 * top1 / count, 100 * top5 / count, int(count))
