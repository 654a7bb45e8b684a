"""Saving where a run is, and leaving it there."""

from __future__ import annotations

from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.heartbeats import Phase
from shufflenet_fn.run.evaluating import Evaluation
from shufflenet_fn.run.manifest import Progress
from shufflenet_fn.run.saving import Saver
from shufflenet_fn.run.stopping import Stopped, Stopping
from shufflenet_fn.run.training import Training


def save(
    run: Training,
    saver: Saver,
    stopping: Stopping,
    step: int,
    progress: Progress,
    evaluated: Evaluation,
) -> None:
    """Have the state after ``step`` updates written; remember how long that takes, to stop in time."""
    stopping.working_on(Phase.SAVING)
    saver.save(saver.take(step), progress, is_best=evaluated.is_best)
    if saver.costs.written:
        stopping.saved(saver.costs.writing_s / saver.costs.written)


def stop_here(run: Training, saver: Saver, stopping: Stopping, step: int) -> Stopped:
    """Wait until the state is on disk; no rank leaves before it is."""
    saver.drain()
    with stopping.waiting():
        reasons = gather(stopping.reason, run.world)
    known = [reason for reason in reasons if reason is not None]
    return Stopped(step, known[0] if known else "another rank", run.job.run_dir)
