"""Save a run's state in the background, with a manifest from which it can resume."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.checkpoint.background import Snapshot, Snapshots, Writer
from shufflenet_fn.checkpoint.format import generator_states
from shufflenet_fn.checkpoint.inventory import BEST, LATEST, Retention, checkpoints_of, point_to, prune
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.config.derived import microbatches_of
from shufflenet_fn.distributed.group import Agreement, RanksDiffer, group_store, tree_digest
from shufflenet_fn.io import Disk, finite
from shufflenet_fn.model.config import frozen_parts
from shufflenet_fn.run.directory import METRICS
from shufflenet_fn.run.events import CheckpointSaved
from shufflenet_fn.run.timing import EpochSums
from shufflenet_fn.run.training import Training


class Progress(NamedTuple):
    """How far the run is at a checkpoint, beside what the state itself holds.

    ``epoch``: epoch of the last step, from 0. ``unfinished``: sums of that epoch so far, ``None`` at its end.
    ``evaluated``: whether ``Training.last`` has the scores of these weights.
    """

    epoch: int
    unfinished: EpochSums | None
    evaluated: bool


def fixed_part(run: Training) -> dict[str, Any]:
    """Return the part of the manifest that is the same in every checkpoint of this start.

    It contains everything that affects the last bits of a result, so that a resume can name differences.
    """
    settings, resolved = run.plan.settings, run.plan.resolved
    return {
        "arch": settings.arch,
        "frozen": list(frozen_parts(settings.freeze)),
        "num_classes": run.config.num_classes,
        "classes": list(run.train_set.classes),
        "steps_per_epoch": run.epochs.length,
        "global_batch": run.global_batch,
        "device": run.plan.device,
        "backend": run.plan.backend,
        "lanes": microbatches_of(settings, run.world.size),
        "threads": torch.get_num_threads(),
        "identity": run.identity,
        "settings": dataclasses.asdict(settings),
        "origin": resolved.origin,
        "preset": resolved.preset,
        "pretrained_sha256": run.plan.pretrained.sha256 if run.plan.pretrained else None,
    }


def changing_part(run: Training, progress: Progress) -> dict[str, Any]:
    """Return the part of the manifest that changes. Cheap: the training loop waits for it."""
    unfinished = progress.unfinished
    return {
        "epoch": progress.epoch,
        "unfinished": unfinished._asdict() if unfinished else None,
        "skipped_in_a_row": run.skipped_in_a_row,
        "best": run.best._asdict() if run.best else None,
        "scores": finite(run.last._asdict()) if run.last and progress.evaluated else None,
        "saved_at": time.time(),
    }


_END_S = 60.0
"""Seconds that a failed run waits at its end for a checkpoint that is being written."""


class PendingCheckpoint(NamedTuple):
    """The state after ``step`` updates, taken but not yet saved. ``blocked_s``: what taking it cost."""

    snapshot: Snapshot
    generators: dict[str, Tensor]
    step: int
    blocked_s: float


class Costs(NamedTuple):
    """Cost of saving so far: the longest and total wait of the training loop, and the background time."""

    written: int = 0
    blocked_max_s: float = 0.0
    blocked_s: float = 0.0
    writing_s: float = 0.0


class Saver:
    """Save states of ``run``; one on each rank, called alike on all. A context manager.

    The training loop takes a snapshot and passes it to a thread. The thread compares digests between ranks.
    On rank 0 it also writes and verifies the checkpoint, updates ``latest`` (and ``best``), and removes old
    checkpoints. The next call raises its failure in the training loop; a run ends with the call ``drain``.

    Leaving the context without an error drains. With an error, it waits only for the checkpoint that is being
    written, and raises ``RanksDiffer`` instead if ranks differ: a rank that has ended for that reason makes
    the collectives of the others fail.
    """

    def __init__(self, run: Training, disk: Disk) -> None:
        self._run, self._disk = run, disk
        self._folder = checkpoints_of(run.plan.run_dir)
        settings = run.plan.settings
        self._retention = Retention(settings.keep, settings.keep_best, settings.keep_every)
        self._about = fixed_part(run)
        self._snapshots = Snapshots(run.state)
        self._agreement = Agreement(run.world, group_store(run.world))
        self._saved: deque[CheckpointSaved] = deque()
        self.costs = Costs()
        number = run.plan.devices[run.world.local_rank]
        self._writer = Writer(lambda: run.runtime.set_device(number))

    def take(self, step: int) -> PendingCheckpoint:
        """Take a snapshot of the state after ``step`` updates. Waits if two are not written yet."""
        start = time.perf_counter()
        self._writer.check()
        generators = generator_states(self._run.runtime) if self._run.world.is_main else {}
        snapshot = self._snapshots.take(self._run.state)
        return PendingCheckpoint(snapshot, generators, step, time.perf_counter() - start)

    def save(self, taken: PendingCheckpoint, progress: Progress, *, is_best: bool = False) -> None:
        """Queue ``taken`` for writing. Returns at once."""
        about = {**self._about, **changing_part(self._run, progress)}

        def task() -> None:
            try:
                self._write(taken, about, is_best)
            finally:
                taken.snapshot.release()

        self._writer.submit(task)

    def report(self) -> None:
        """Report what has been written since the last call. Raises the error of a failed write."""
        self._writer.check()
        while self._saved:
            done = self._saved.popleft()
            costs = self.costs
            self.costs = Costs(
                costs.written + 1,
                max(costs.blocked_max_s, done.blocked_s),
                costs.blocked_s + done.blocked_s,
                costs.writing_s + done.writing_s,
            )
            self._run.reporter.event(done)

    def drain(self) -> None:
        """Wait until everything is on disk, and report it. Raises the error of a failed write."""
        self._writer.drain()
        self.report()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        if kind is None:
            self.drain()
            self._writer.close()
        elif issubclass(kind, Exception):
            self._agreement.give_up()  # the others may be gone
            self._writer.close(_END_S)
            if isinstance(self._writer.error, RanksDiffer) and error is not self._writer.error:
                raise self._writer.error from error

    def _write(self, taken: PendingCheckpoint, about: dict[str, Any], is_best: bool) -> None:
        run, start = self._run, time.perf_counter()
        state = taken.snapshot.state()
        if run.world.size > 1:
            self._agreement.check(tree_digest(state), f"the state after step {taken.step}")
        if not run.world.is_main:
            return
        # What the log says of the time before this checkpoint must not be lost where it is kept.
        if (run.plan.run_dir / METRICS).exists():
            self._disk.flush(run.plan.run_dir / METRICS)
        path = save_checkpoint(
            self._folder,
            run.config,
            run.canonical(state),
            about,
            generators=taken.generators,
            disk=self._disk,
        )
        point_to(self._folder, LATEST, path, disk=self._disk)
        if is_best:
            point_to(self._folder, BEST, path, disk=self._disk)
        prune(self._folder, self._retention, disk=self._disk)
        size = sum(file.stat().st_size for file in path.iterdir())
        seconds = time.perf_counter() - start
        self._saved.append(
            CheckpointSaved(taken.step, about["epoch"], path.name, size, taken.blocked_s, seconds, is_best)
        )
