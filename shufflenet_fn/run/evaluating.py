"""Evaluating between epochs, and leaving that where a rank was asked to stop."""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.data.loader import eval_loader
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.run.bad_data import left_out_line
from shufflenet_fn.run.evaluation import Scores, evaluate_or_leave
from shufflenet_fn.run.events import Evaluated
from shufflenet_fn.run.stopping import Stopping
from shufflenet_fn.run.training import Best, Training, eval_batch_size


class Evaluation(NamedTuple):
    """``whole``: done to its end. ``left``: given up because a rank was asked to stop."""

    whole: bool = False
    left: bool = False
    is_best: bool = False


NOT_EVALUATED: Final = Evaluation()


def evaluation_is_due(epoch: int, epochs: int, eval_freq: int) -> bool:
    """The original's rule: every ``eval_freq`` epochs, the last one, and all in the last tenth."""
    return (epoch + 1) % eval_freq == 0 or epoch + 1 == epochs or epoch > 0.9 * epochs


def owes_evaluation(run: Training, first: int) -> bool:
    """Whether the run, which goes on at step ``first``, was stopped between an epoch and its evaluation."""
    if run.job.resume is None or first == 0 or first % run.steps_per_epoch:
        return False
    settings, epoch = run.job.settings, first // run.steps_per_epoch - 1
    if not evaluation_is_due(epoch, settings.epochs, settings.eval_freq):
        return False
    return read_manifest(run.job.resume)["scores"] is None


def evaluate_epoch(
    run: Training, stopping: Stopping, epoch: int, *, in_turn: bool = True
) -> Evaluation:
    """Evaluate raw and, if kept, averaged weights; whether the latter (else the former) are the best.

    One that only the end of this start has caused is not ``in_turn``, and never the best: a run that goes on
    later must not be another one for it. Nothing is said of one that was left: it will be done again.
    """
    state = run.plain_state
    candidates: list[tuple[str, Variables]] = [("raw", state.variables)]
    if isinstance(state.ema, Variables):
        candidates.append(("ema", state.ema))
    done: list[tuple[str, Scores, float]] = []
    for name, variables in candidates:
        start = time.perf_counter()
        with eval_loader(
            run.eval_set,
            run.eval_transform,
            batch_size=eval_batch_size(run.job.settings, run.world),
            rank=run.world.rank,
            world_size=run.world.size,
            threads=run.threads,
            bad_images=run.bad_eval,
            buffers=run.eval_feed.ready(),
            native=run.image_reader,
        ) as batches:
            scores = evaluate_or_leave(
                run.predictor(variables),
                batches,
                feed=run.eval_feed,
                world=run.world,
                leave=stopping.leave,
                waiting=stopping.waiting,
            )
        if scores is None:
            return Evaluation(left=True)
        done.append((name, scores, time.perf_counter() - start))
    run.last = done[-1][1]
    is_best = in_turn and (run.best is None or run.last.accuracy1 > run.best.accuracy1)
    if is_best:
        run.best = Best(run.last.accuracy1, epoch)
    if run.world.is_main:
        for name, scores, seconds in done:
            best = is_best and name == done[-1][0]
            _warn(run, epoch, name, scores)
            run.reporter.event(Evaluated(epoch, *scores, seconds, name, best, in_turn))
    return Evaluation(whole=True, is_best=is_best)


def _warn(run: Training, epoch: int, name: str, scores: Scores) -> None:
    if not math.isfinite(scores.loss):
        # Not the end: in float16 an early evaluation can overflow where training does not.
        run.reporter.warning(
            f"the evaluation loss after epoch {epoch} is {scores.loss} ({name} weights)"
        )
    left_out = left_out_line(len(run.eval_set), scores.num_images)
    if left_out:
        run.reporter.warning(left_out)
