"""A whole training run, on one rank."""

from __future__ import annotations

import time
from typing import Any

import torch

from shufflenet_fn.checkpoint.disk import Disk, RealDisk
from shufflenet_fn.distributed.group import check_equal_on_all_ranks
from shufflenet_fn.distributed.heartbeats import open_slot
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.bad_data import replaced_line
from shufflenet_fn.run.consistency import check_same_data
from shufflenet_fn.run.derived import precision_name
from shufflenet_fn.run.epoch import train_epoch
from shufflenet_fn.run.evaluating import (
    NOT_EVALUATED,
    evaluate_epoch,
    evaluation_is_due,
    owes_evaluation,
)
from shufflenet_fn.run.events import Reporter, RunFinished, RunStarted
from shufflenet_fn.run.facts import run_facts
from shufflenet_fn.run.halting import save, stop_here
from shufflenet_fn.run.job import Job
from shufflenet_fn.run.judging import judge_all
from shufflenet_fn.run.loading import training_batches
from shufflenet_fn.run.manifest import Progress
from shufflenet_fn.run.profile import profiled
from shufflenet_fn.run.report import (
    Results,
    forget_results,
    kept_results,
    results_table,
    write_results,
)
from shufflenet_fn.run.saving import Costs, Saver
from shufflenet_fn.run.stopping import Stopped, Stopping
from shufflenet_fn.run.training import Training, build_training


def train(
    job: Job,
    world: World,
    reporter: Reporter,
    *,
    stopping: Stopping | None = None,
    disk: Disk | None = None,
) -> dict[str, Any] | Stopped:
    """Run ``job`` on this rank, inside its process group, and return ``results.json``'s content.

    Every rank computes; rank 0 reports and writes. ``stopping``: asked with every step and every batch of
    an evaluation whether to stop; if so, the state is saved and ``Stopped`` returned. ``disk``: where
    checkpoints are written to, this machine's if not given.

    Raises:
        UserError: the run cannot go on; the message says why and what to do.
    """
    settings = job.settings
    started = time.time()
    stopping = stopping or Stopping(open_slot(None, 0))
    run = build_training(job, world, reporter, stopping)
    for warning in check_same_data(run.identity, world):
        reporter.warning(warning)
    check_equal_on_all_ranks(run.state, world, "the initial state")
    first = int(run.state.step)
    total = settings.epochs * run.steps_per_epoch
    stop = min(total, settings.max_steps or total)
    if world.is_main:
        if first < stop:
            forget_results(job.run_dir)
        reporter.event(
            RunStarted(
                run_dir=str(job.run_dir),
                device=job.device,
                epochs=settings.epochs,
                steps_per_epoch=run.steps_per_epoch,
                first_step=first,
                total_steps=stop,
                global_batch=run.global_batch,
                facts=run_facts(job, run.config, run.global_batch, run.threads, len(run.train_set)),
            )
        )
    fps: list[float] = []
    with (
        Saver(run, disk or RealDisk()) as saver,
        training_batches(
            run,
            world,
            range(first, max(first, stop)),
            threads=run.threads,
            buffers=run.feed.ready(),
        ) as loaded,
        profiled(
            loaded,
            settings.profile if world.is_main else None,
            max(0, stop - first),
            run.runtime,
            reporter,
        ) as batches,
    ):
        step, evaluated = first, NOT_EVALUATED
        if owes_evaluation(run, first):
            epoch = first // run.steps_per_epoch - 1
            evaluated = evaluate_epoch(run, stopping, epoch)
            save(run, saver, stopping, first, Progress(epoch, None, evaluated.whole), evaluated)
            if evaluated.left:
                return stop_here(run, saver, stopping, first)
        while step < stop:
            epoch = step // run.steps_per_epoch
            steps = range(step, min(stop, (epoch + 1) * run.steps_per_epoch))
            meter, step, stopped = train_epoch(run, saver, stopping, batches, epoch, steps, stop)
            if meter.fps is not None:
                fps.append(meter.fps)
            _say_replaced(run)
            unfinished = meter.sums if step % run.steps_per_epoch else None
            due = evaluation_is_due(epoch, settings.epochs, settings.eval_freq)
            evaluated = NOT_EVALUATED
            if unfinished is None and due and not stopped:
                evaluated = evaluate_epoch(run, stopping, epoch)
            progress = Progress(epoch, unfinished, evaluated.whole)
            save(run, saver, stopping, step, progress, evaluated)
            if stopped or evaluated.left:
                return stop_here(run, saver, stopping, step)
        # A run that was killed between its last checkpoint and its results has been evaluated.
        if not evaluated.whole and (step > first or run.last is None):
            epoch = (step - 1) // run.steps_per_epoch
            if evaluate_epoch(run, stopping, epoch, in_turn=False).left:
                return stop_here(run, saver, stopping, step)
    return _finish(run, fps, started, saver.costs)


def _say_replaced(run: Training) -> None:
    line = replaced_line(run.bad_train, len(run.train_set), run.job.run_dir, run.world)
    if line and run.world.is_main:
        run.reporter.warning(line)


def _finish(run: Training, fps: list[float], started: float, costs: Costs) -> dict[str, Any]:
    assert run.last is not None
    if run.world.is_main and not costs.written:
        # Such a start has trained nothing, and would put its own lack of speed in place of the run's.
        kept = kept_results(run.job.run_dir, int(run.state.step))
        if kept is not None:
            run.reporter.note("the run is done and its results are there: nothing is left to do")
            run.reporter.event(RunFinished(kept._asdict(), results_table(kept)))
            return kept._asdict()
    memory, judged = run.runtime.memory(), judge_all(run)
    results = Results(
        name=f"{run.world.size}p-{run.job.device.upper()}",
        arch=run.job.settings.arch,
        accuracy1=run.last.accuracy1,
        accuracy5=run.last.accuracy5,
        loss=run.last.loss,
        num_images=run.last.num_images,
        best_accuracy1=run.best.accuracy1 if run.best else run.last.accuracy1,
        best_epoch=run.best.epoch + 1 if run.best else 0,
        fps=sum(fps) / len(fps) if fps else None,
        epochs=run.job.settings.epochs,
        steps=int(run.state.step),
        precision=precision_name(run.job.settings),
        torch_version=torch.__version__,
        seconds=time.time() - started,
        memory_peak_bytes=memory.peak,
        memory_reserved_bytes=memory.reserved,
        memory_total_bytes=memory.total,
        step_seconds=run.waits.mean_times._asdict() if judged else None,
        verdict=judged._asdict() if judged else None,
        checkpoints=costs._asdict(),
    )
    if run.world.is_main:
        table, notes = write_results(run.job.run_dir, results)
        for note in notes:
            run.reporter.note(note)
        run.reporter.event(RunFinished(results._asdict(), table))
    return results._asdict()
