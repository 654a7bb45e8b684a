"""The training steps of one epoch, timed and read back two steps late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.run.events import EpochTrained, StepDone
from shufflenet_fn.run.guard import check_step, diverged, what_is_bad
from shufflenet_fn.run.judging import judge
from shufflenet_fn.run.manifest import Progress
from shufflenet_fn.run.meters import EpochMeter
from shufflenet_fn.run.read_back import READ_BACK, ReadBack, ReadBacks
from shufflenet_fn.run.saving import Saver, Taken
from shufflenet_fn.run.step_clock import TimedStep
from shufflenet_fn.run.stopping import Stopping
from shufflenet_fn.run.training import Training
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.training.step import no_flags


class Trained(NamedTuple):
    """Up to ``end`` updates are done; ``stopped``: all ranks have agreed to leave it there."""

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
    taken: Taken | None
    before: TrainState | None


def train_epoch(
    run: Training,
    saver: Saver,
    stopping: Stopping,
    batches: Iterator[Batch],
    epoch: int,
    steps: range,
    stop: int,
) -> Trained:
    """Take ``steps`` (numbers over all epochs) of ``epoch``; ``run.state`` is the state after them.

    Args:
        run: what to train with.
        saver: given the state every ``checkpoint_freq`` steps, but not that after the last of ``steps``.
        stopping: asked with each step. The wish of one rank travels with the gradients, so all ranks read it
            back after the same step, and leave the epoch there.
        batches: the loader, standing at the first of ``steps``.
        epoch: its number, from 0.
        steps: steps to take.
        stop: the step at which the whole run ends, for the estimate of the time left.

    Raises:
        UserError: loss or gradients are no longer finite.
    """
    meter = EpochMeter(run.global_batch, len(steps), run.take_unfinished())
    every = run.job.settings.checkpoint_freq
    pending: deque[Pending] = deque()
    # As many as are pending, and the one that joins them.
    read_backs = ReadBacks(run.device, READ_BACK + 1)
    quiet = no_flags(run.device)
    asking = quiet._replace(stop=quiet.stop + 1)
    stopped = False
    for step in steps:
        stopping.step_begins(step)
        run.clock.start()
        batch: Batch = next(batches)
        run.clock.fed()
        examples = run.feed(batch)
        run.clock.uploaded()
        flags = asking if stopping.asked() else quiet
        before = run.state
        run.state, metrics, flags_out = run.train_step(before, examples, flags)
        if len(pending) == READ_BACK:
            stopped = _read_back(run, saver, stopping, meter, pending.popleft(), epoch, steps, stop)
        numbers = read_backs.start(*metrics, *flags_out)
        due = every and (step + 1) % every == 0 and step != steps[-1]
        taken = saver.take(step + 1) if due else None
        saver.report()
        # A state that is kept is memory that the next steps cannot use again.
        kept = None if _is_known_to_be_good(numbers) else before
        pending.append(Pending(step, run.clock.stop(), numbers, taken, kept))
        del before, kept
        if stopped:
            break
    end = pending[-1].step + 1
    while pending:
        done = pending.popleft()
        stopped |= _read_back(run, saver, stopping, meter, done, epoch, steps, stop)
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


def _read_back(
    run: Training,
    saver: Saver,
    stopping: Stopping,
    meter: EpochMeter,
    done: Pending,
    epoch: int,
    steps: range,
    stop: int,
) -> bool:
    """Account for a finished step; True if a rank asked with it to stop."""
    with stopping.waiting(), run.clock.waiting_for_device():
        loss, accuracy1, accuracy5, stop_flag, skipped_flag, gradient = done.numbers.take()
    values = (loss, 100 * accuracy1, 100 * accuracy5)
    skipped = skipped_flag > 0
    what = what_is_bad(loss, gradient, skipped=skipped)
    check_step(run, done.step, progress_before(run, done.step, meter), done.before, what)
    times = run.clock.times(done.timed)
    meter.add(times, values, skipped)
    judge(run, times)
    number = done.step - epoch * run.steps_per_epoch
    due = number % run.job.settings.print_freq == 0 or done.step == steps[-1]
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
                eta_s=None if fps is None else (stop - done.step - 1) * run.global_batch / fps,
                skipped=meter.skipped,
            )
        )
    if done.taken is not None:
        # Now that the meter has come to where the state is.
        saver.save(done.taken, Progress(epoch, meter.sums, evaluated=False))
    return stop_flag > 0


def _is_known_to_be_good(numbers: ReadBack) -> bool:
    """Whether the step of ``numbers`` is good, if that can be told without waiting."""
    if not numbers.is_here:
        return False
    loss, _, _, _, skipped, gradient = numbers.take()
    return what_is_bad(loss, gradient, skipped=skipped > 0) is None


def progress_before(run: Training, step: int, meter: EpochMeter) -> Progress:
    """How far the run was before ``step``, up to which ``meter`` has counted."""
    epoch, number = divmod(step, run.steps_per_epoch)
    if number == 0:
        return Progress(max(0, epoch - 1), None, evaluated=False)
    return Progress(epoch, meter.sums, evaluated=False)
