"""The training loop: a whole run on one rank, from the state it starts from to its results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.distributed.group import check_equal_on_all_ranks, gather
from shufflenet_fn.distributed.heartbeats import Phase
from shufflenet_fn.distributed.world import World
from shufflenet_fn.io import Disk
from shufflenet_fn.run.bottleneck import report_bottleneck
from shufflenet_fn.run.directory import RESULTS
from shufflenet_fn.run.divergence import check_step, diverged, what_is_bad
from shufflenet_fn.run.evaluation import (
    NOT_EVALUATED,
    Evaluation,
    evaluate_epoch,
    evaluation_is_due,
    needs_evaluation,
)
from shufflenet_fn.run.events import EpochTrained, Reporter, RunStarted, StepDone
from shufflenet_fn.run.fingerprint import check_same_data
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.reporting import finish, replaced_line, run_facts
from shufflenet_fn.run.saving import PendingCheckpoint, Progress, Saver
from shufflenet_fn.run.stopping import Stopped, Stopping
from shufflenet_fn.run.timing import EpochMeter, TimedStep, profiled
from shufflenet_fn.run.training import Training, build_training, training_batches
from shufflenet_fn.run.transfer import READ_BACK, ReadBack, ReadBacks
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.training.step import no_flags


def train(
    plan: RunPlan, world: World, reporter: Reporter, stopping: Stopping, disk: Disk
) -> dict[str, Any] | Stopped:
    """Run ``plan`` on this rank, inside its process group, and return ``results.json``'s content.

    Every rank computes; rank 0 reports and writes. ``stopping``: asked with every step and every batch of
    an evaluation whether to stop; if so, the state is saved and ``Stopped`` returned. ``disk``: where
    checkpoints are written to.

    Raises:
        UserError: the run cannot go on; the message says why and what to do.
    """
    # ------------------------------------------------------------------------------------- build
    settings = plan.settings
    started = time.time()
    run = build_training(plan, world, reporter, stopping)
    for warning in check_same_data(run.identity, world):
        reporter.warning(warning)
    check_equal_on_all_ranks(run.state, world, "the initial state")

    # ------------------------------------------------------------------- report what was decided
    first, stop = int(run.state.step), run.stop
    if world.is_main:
        if first < stop:
            (plan.run_dir / RESULTS).unlink(missing_ok=True)
        reporter.event(
            RunStarted(
                run_dir=str(plan.run_dir),
                device=plan.device,
                epochs=settings.epochs,
                steps_per_epoch=run.epochs.length,
                first_step=first,
                total_steps=stop,
                global_batch=run.global_batch,
                facts=run_facts(run),
            )
        )

    # ------------------------------------------------------------------------------------- train
    fps: list[float] = []
    with (
        Saver(run, disk) as saver,
        training_batches(
            run, world, range(first, max(first, stop)), threads=run.threads, buffers=run.feed.ready()
        ) as loaded,
        profiled(
            loaded, settings.profile if world.is_main else None, max(0, stop - first), run.runtime, reporter
        ) as batches,
    ):
        step, evaluated = first, NOT_EVALUATED
        # A run that was stopped between an epoch and its evaluation does that first.
        if needs_evaluation(run, first):
            epoch = run.epochs.place(first)[0] - 1
            evaluated = evaluate_epoch(run, epoch)
            save(run, saver, first, Progress(epoch, None, evaluated.whole), evaluated)
            if evaluated.left:
                return stop_here(run, saver, first)
        while step < stop:
            # One epoch, or what is left of it.
            epoch, _ = run.epochs.place(step)
            end = run.epochs.start(epoch + 1)
            steps = range(step, min(stop, end))
            meter, step, stopped = train_epoch(run, saver, batches, epoch, steps)
            if meter.fps is not None:
                fps.append(meter.fps)
            replaced = replaced_line(run.bad_train, len(run.train_set), plan.run_dir, world)
            if replaced and world.is_main:
                reporter.warning(replaced)
            # Evaluate if it is due, then save.
            unfinished = None if step == end else meter.sums
            due = evaluation_is_due(epoch, settings.epochs, settings.eval_freq)
            evaluated = NOT_EVALUATED
            if unfinished is None and due and not stopped:
                evaluated = evaluate_epoch(run, epoch)
            save(run, saver, step, Progress(epoch, unfinished, evaluated.whole), evaluated)
            if stopped or evaluated.left:
                return stop_here(run, saver, step)
        # A run that was killed between its last checkpoint and its results has been evaluated.
        if not evaluated.whole and (step > first or run.last is None):
            epoch, _ = run.epochs.place(step - 1)
            if evaluate_epoch(run, epoch, in_turn=False).left:
                return stop_here(run, saver, step)
    return finish(run, fps, started, saver.costs)


# -------------------------------------------------------------------------------------- one epoch


class Trained(NamedTuple):
    """``end`` updates are done. ``stopped``: all ranks have agreed to stop there."""

    meter: EpochMeter
    end: int
    stopped: bool


class Pending(NamedTuple):
    """A step whose metrics have not been read back yet.

    ``taken``: the state after it, if it is saved. ``before``: the state before it, to go back to, unless
    the step is known to be good.
    """

    step: int
    timed: TimedStep
    numbers: ReadBack
    taken: PendingCheckpoint | None
    before: TrainState | None


def train_epoch(run: Training, saver: Saver, batches: Iterator[Batch], epoch: int, steps: range) -> Trained:
    """Take ``steps`` (numbers over all epochs) of ``epoch``; ``run.state`` is the state after them.

    ``saver`` is given the state every ``checkpoint_freq`` steps, but not that after the last of ``steps``.

    Raises:
        UserError: loss or gradients are no longer finite.
    """
    meter = EpochMeter(run.global_batch, len(steps), run.take_unfinished())
    every = run.plan.settings.checkpoint_freq
    pending: deque[Pending] = deque()
    # As many as are pending, and the one that joins them.
    read_backs = ReadBacks(run.device, READ_BACK + 1)
    quiet = no_flags(run.device)
    asking = quiet._replace(stop=quiet.stop + 1)
    stopped = False
    for step in steps:
        # Fetch a batch and bring it to the device.
        run.stopping.step_begins(step)
        run.clock.start()
        batch: Batch = next(batches)
        run.clock.fed()
        examples = run.feed(batch)
        run.clock.uploaded()
        # Forward, backward, update. A stop request is reduced together with the gradients.
        flags = asking if run.stopping.asked() else quiet
        before = run.state
        run.state, metrics, flags_out = run.train_step(before, examples, flags)
        # Read the metrics of an earlier step, so that the host does not wait for this one.
        if len(pending) == READ_BACK:
            stopped = _read_back(run, saver, meter, pending.popleft(), epoch, steps)
        numbers = read_backs.start(*metrics, *flags_out)
        # Take a snapshot for a checkpoint within the epoch.
        due = every and (step + 1) % every == 0 and step != steps[-1]
        taken = saver.take(step + 1) if due else None
        saver.report()
        # A state that is kept is memory that the next steps cannot use again.
        kept = None if _is_known_to_be_good(numbers) else before
        pending.append(Pending(step, run.clock.stop(), numbers, taken, kept))
        del before, kept
        if stopped:
            break

    # The epoch is over: read back what is still pending.
    end = pending[-1].step + 1
    while pending:
        stopped |= _read_back(run, saver, meter, pending.popleft(), epoch, steps)
    if meter.skipped == meter.steps and run.scaling.kind == "static":
        # A dynamic scale finds a smaller value; a static one will overflow for ever.
        before = run.state._replace(step=run.state.step - 1)
        what = "every update of the epoch was skipped"
        raise diverged(run, end - 1, progress_before(run, end - 1, meter), before, what)
    if run.world.is_main and end == steps[-1] + 1:
        run.reporter.event(
            EpochTrained(epoch, *meter.mean_metrics, meter.fps, meter.mean_times, meter.skipped)
        )
    return Trained(meter, end, stopped)


# -------------------------------------------------------------------------------- after each step


def _read_back(
    run: Training, saver: Saver, meter: EpochMeter, done: Pending, epoch: int, steps: range
) -> bool:
    """Account for a finished step. Returns whether a rank asked to stop with it."""
    with run.stopping.waiting(), run.clock.waiting_for_device():
        loss, accuracy1, accuracy5, stop_flag, skipped_flag, gradient = done.numbers.take()
    values = (loss, 100 * accuracy1, 100 * accuracy5)
    skipped = skipped_flag > 0
    what = what_is_bad(loss, gradient, skipped=skipped)
    check_step(run, done.step, progress_before(run, done.step, meter), done.before, what)
    times = run.clock.times(done.timed)
    meter.add(times, values, skipped)
    report_bottleneck(run, times)
    number = done.step - run.epochs.start(epoch)
    due = number % run.plan.settings.print_freq == 0 or done.step == steps[-1]
    if run.world.is_main and due:
        fps = meter.fps
        run.reporter.event(
            StepDone(
                done.step,
                epoch,
                number,
                *values,
                *meter.mean_metrics,
                learning_rate=run.learning_rate(done.step),
                times=times,
                mean_times=meter.mean_times,
                fps=fps,
                eta_s=None if fps is None else (run.stop - done.step - 1) * run.global_batch / fps,
                skipped=meter.skipped,
            )
        )
    if done.taken is not None:
        # Now that the meter has come to where the state is.
        saver.save(done.taken, Progress(epoch, meter.sums, evaluated=False))
    return stop_flag > 0


def _is_known_to_be_good(numbers: ReadBack) -> bool:
    """Return whether the step of ``numbers`` is known to be good without waiting."""
    if not numbers.is_here:
        return False
    loss, _, _, _, skipped, gradient = numbers.take()
    return what_is_bad(loss, gradient, skipped=skipped > 0) is None


def progress_before(run: Training, step: int, meter: EpochMeter) -> Progress:
    """Return the progress of the run before ``step``, up to which ``meter`` has counted."""
    epoch, number = run.epochs.place(step)
    if number == 0:
        return Progress(max(0, epoch - 1), None, evaluated=False)
    return Progress(epoch, meter.sums, evaluated=False)


# ---------------------------------------------------------------------------------- save and stop


def save(run: Training, saver: Saver, step: int, progress: Progress, evaluated: Evaluation) -> None:
    """Queue the state after ``step`` updates for writing; remember how long that takes, to stop in time."""
    run.stopping.working_on(Phase.SAVING)
    saver.save(saver.take(step), progress, is_best=evaluated.is_best)
    if saver.costs.written:
        run.stopping.saved(saver.costs.writing_s / saver.costs.written)


def stop_here(run: Training, saver: Saver, step: int) -> Stopped:
    """Wait until the state is on disk; no rank leaves before it is."""
    saver.drain()
    with run.stopping.waiting():
        reasons = gather(run.stopping.reason, run.world)
    return Stopped(step, next(filter(None, reasons), "another rank"), run.plan.run_dir)
