"""Losses and gradients that are not finite: what they are called, and when they end a run."""

from __future__ import annotations

import math

from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of
from shufflenet_fn.run.dump import Dumped, dump_step
from shufflenet_fn.run.manifest import Progress
from shufflenet_fn.run.training import Training
from shufflenet_fn.training.state import TrainState
from shufflenet_fn_backends.support.errors import UserError


def what_is_bad(loss: float, gradient: float, *, skipped: bool) -> str | None:
    """What of a step is not finite, in words; ``None`` if all is.

    Args:
        loss, gradient: as read back from the step's ``Metrics`` and ``Flags``, equal on all ranks.
        skipped: whether the step changed nothing.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient):
        return f"the gradient is not finite (under a loss of {loss:.4g})"
    return "the scaled gradient overflowed" if skipped else None


def check_step(
    run: Training,
    step: int,
    progress: Progress,
    before: TrainState | None,
    what: str | None,
) -> None:
    """Count ``step`` as good or bad. Called alike on all ranks.

    Args:
        run: what trains.
        step: its number.
        progress: of the run before it.
        before: the state before it; not needed of a good step.
        what: ``what_is_bad`` of it.

    Raises:
        UserError: it is one bad step too many in a row; it was dumped.
    """
    if what is None:
        run.skipped_in_a_row = 0
        return
    run.skipped_in_a_row += 1
    if run.skipped_in_a_row >= run.max_bad_steps:
        assert before is not None
        raise diverged(run, step, progress, before, what)
    # A loss scale finds its value by overflows: no news unless the loss itself is bad.
    if run.world.is_main and (run.scaling.kind == "none" or not what.startswith("the scaled")):
        run.reporter.warning(
            f"step {step} (epoch {step // run.steps_per_epoch}) changed nothing: {what}, with learning rate "
            f"{run.learning_rate(step):.4g}; {run.skipped_in_a_row} in a row, and --max-bad-steps is "
            f"{run.max_bad_steps}"
        )


def diverged(
    run: Training, step: int, progress: Progress, before: TrainState, what: str
) -> UserError:
    """The error for a run whose numbers are no longer any, once the step is dumped if that can be done."""
    try:
        dump = dump_step(run, step, progress, before, what)
    except UserError as error:
        dump = Dumped(run.job.run_dir, "", str(error).removesuffix("."))
    kept = (
        f"the step's images, gradients and the state before it are in {dump.folder}"
        if dump.problem is None
        else f"the step itself could not be kept: {dump.problem}"
    )
    share = f", in the share of {dump.share}" if dump.share else ""
    folder = checkpoints_of(run.job.run_dir)
    lower = (
        "Go on from an earlier checkpoint with --resume and a lower --learning-rate, start again with"
        if run.job.resume is not None or checkpoints(folder)
        else "Start again with a lower --learning-rate,"
    )
    row = f", bad step {run.skipped_in_a_row} in a row" if run.skipped_in_a_row > 1 else ""
    return UserError(
        f"training diverged: {what} at step {step} (epoch {step // run.steps_per_epoch}){row}, with "
        f"learning rate {run.learning_rate(step):.4g}{share}. {lower} --clip-norm 1 or a longer "
        f"--warm-up-epochs, or leave out single steps with --max-bad-steps. What is in {folder} is kept; "
        f"{kept}."
    )
