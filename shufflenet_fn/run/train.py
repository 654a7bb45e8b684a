"""A whole training run, on one rank."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from shufflenet_fn.checkpoint.disk import Disk, RealDisk
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.distributed.group import check_equal_on_all_ranks
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.run.bad_data import left_out_line, replaced_line
from shufflenet_fn.run.build_augment import build_augmentation, build_mixing
from shufflenet_fn.run.derived import precision_name
from shufflenet_fn.run.epoch import train_epoch
from shufflenet_fn.run.evaluation import evaluate
from shufflenet_fn.run.events import Evaluated, Reporter, RunFinished, RunStarted
from shufflenet_fn.run.facts import run_facts
from shufflenet_fn.run.job import Job
from shufflenet_fn.run.judging import judge_all
from shufflenet_fn.run.manifest import Progress
from shufflenet_fn.run.profile import profiled
from shufflenet_fn.run.report import Results, write_results
from shufflenet_fn.run.saving import Costs, Saver
from shufflenet_fn.run.training import Best, Training, build_training, eval_batch_size


def train(
    job: Job, world: World, reporter: Reporter, *, disk: Disk | None = None
) -> dict[str, Any]:
    """Run ``job`` on this rank, inside its process group, and return ``results.json``'s content.

    Every rank computes; rank 0 reports and writes. ``disk``: where checkpoints are written to, this
    machine's if not given.

    Raises:
        UserError: the run cannot go on; the message says why and what to do.
    """
    settings = job.settings
    started = time.time()
    run = build_training(job, world, reporter)
    check_equal_on_all_ranks(run.state, world, "the initial state")
    first = int(run.state.step)
    total = settings.epochs * run.steps_per_epoch
    stop = min(total, settings.max_steps or total)
    if world.is_main:
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
        train_loader(
            run.train_set,
            run.train_transform,
            augment=build_augmentation(settings),
            mixing=build_mixing(settings),
            repeats=settings.repeats,
            seed=settings.seed,
            global_batch=run.global_batch,
            rank=world.rank,
            world_size=world.size,
            start_step=first,
            stop_step=max(first, stop),
            threads=run.threads,
            bad_images=run.bad_train,
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
        step, evaluated = first, False
        while step < stop:
            epoch = step // run.steps_per_epoch
            end = min(stop, (epoch + 1) * run.steps_per_epoch)
            meter = train_epoch(run, saver, batches, epoch, range(step, end), stop)
            if meter.fps is not None:
                fps.append(meter.fps)
            _say_replaced(run)
            unfinished = meter.sums if end % run.steps_per_epoch else None
            due = evaluation_is_due(epoch, settings.epochs, settings.eval_freq)
            evaluated = unfinished is None and due
            is_best = evaluated and _evaluate(run, epoch)
            progress = Progress(epoch, unfinished, evaluated)
            saver.save(saver.take(end), progress, is_best=is_best)
            step = end
    if not evaluated:
        _evaluate(run, (step - 1) // run.steps_per_epoch, in_turn=False)
    return _finish(run, fps, started, saver.costs)


def evaluation_is_due(epoch: int, epochs: int, eval_freq: int) -> bool:
    """The original's rule: every ``eval_freq`` epochs, the last one, and all in the last tenth."""
    return (epoch + 1) % eval_freq == 0 or epoch + 1 == epochs or epoch > 0.9 * epochs


def _evaluate(run: Training, epoch: int, *, in_turn: bool = True) -> bool:
    """Evaluate raw and, if kept, averaged weights; True if the latter (else the former) are the best.

    One that only the end of this start has caused is not ``in_turn``, and never the best: a run that goes on
    later must not be another one for it.
    """
    state = run.plain_state
    candidates: list[tuple[str, Variables]] = [("raw", state.variables)]
    if isinstance(state.ema, Variables):
        candidates.append(("ema", state.ema))
    is_best = False
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
        ) as batches:
            scores = evaluate(
                run.predictor(variables), batches, feed=run.eval_feed, world=run.world
            )
        if not math.isfinite(scores.loss) and run.world.is_main:
            # Not the end: in float16 an early evaluation can overflow where training does not.
            run.reporter.warning(
                f"the evaluation loss after epoch {epoch} is {scores.loss} ({name} weights)"
            )
        left_out = left_out_line(len(run.eval_set), scores.num_images)
        if left_out and run.world.is_main:
            run.reporter.warning(left_out)
        run.last = scores
        if in_turn and name == candidates[-1][0]:
            is_best = run.best is None or scores.accuracy1 > run.best.accuracy1
            if is_best:
                run.best = Best(scores.accuracy1, epoch)
        if run.world.is_main:
            seconds = time.perf_counter() - start
            run.reporter.event(Evaluated(epoch, *scores, seconds, name, is_best, in_turn))
    return is_best


def _say_replaced(run: Training) -> None:
    line = replaced_line(run.bad_train, len(run.train_set), run.job.run_dir, run.world)
    if line and run.world.is_main:
        run.reporter.warning(line)


def _finish(run: Training, fps: list[float], started: float, costs: Costs) -> dict[str, Any]:
    assert run.last is not None
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
