"""The checkpoint that all ranks start from: after a restart, the newest good one."""

from __future__ import annotations

from pathlib import Path

from shufflenet_fn.checkpoint.format import DamagedCheckpoint, NewerCheckpoint, step_of
from shufflenet_fn.checkpoint.inventory import checkpoints_of, lies_in, newest_good
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.consistency import check_same_job
from shufflenet_fn.run.job import Job
from shufflenet_fn.run.rewind import Rewound, rewind_to
from shufflenet_fn_backends.support.errors import UserError


def agreed(job: Job, world: World) -> Job:
    """Return ``job`` with the checkpoint that rank 0 has chosen.

    After a restart, rank 0 looks for the newest good checkpoint and rewinds the run directory to it.

    Raises:
        UsageError: ranks were given different jobs.
    """
    check_same_job(job, world)
    found: tuple[Path | None, tuple[str, ...]] = (job.resume, ())
    if world.is_main and world.attempt:
        found = _newest(job, world)
    resume, notes = gather(found, world)[0]
    return job._replace(resume=resume, notes=(*job.notes, *notes))


def newest_of(job: Job) -> tuple[Path | None, list[str]]:
    """Return the checkpoint from which ``job`` continues after a failure, and notes on skipped ones.

    It is the newest good checkpoint of the run, or the one that the run was resumed from if that lies
    elsewhere and is newer: a copy, one that was set aside, or the state before a dumped step.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """
    folder = checkpoints_of(job.run_dir)
    checkpoint, manifest, passed_over = newest_good(folder)
    if job.resume is None or _is_looked_at(folder, job.resume):
        if checkpoint is None and passed_over:
            raise UserError(
                f"the run cannot be started again: no checkpoint in {folder} can be used. "
                f"{' '.join(passed_over)} To start from the beginning, choose another --run-dir."
            )
        return checkpoint, passed_over
    if checkpoint is None:
        return job.resume, passed_over
    try:
        newer = read_manifest(job.resume)["step"] > manifest["step"]
    except (DamagedCheckpoint, NewerCheckpoint):  # it is not needed any more, and may be gone
        newer = False
    return job.resume if newer else checkpoint, passed_over


def rewind_to_newest(job: Job) -> Rewound:
    """Rewind the run directory of ``job`` to ``newest_of(job)``; notes also on skipped checkpoints.

    Raises:
        UserError: as ``newest_of`` and ``rewind``.
    """
    checkpoint, passed_over = newest_of(job)
    checkpoint, set_aside = rewind_to(checkpoint, job.run_dir)
    return Rewound(checkpoint, [*passed_over, *set_aside])


def _is_looked_at(folder: Path, checkpoint: Path) -> bool:
    """Return whether ``newest_good(folder)`` considers ``checkpoint``."""
    return lies_in(folder, checkpoint) and step_of(checkpoint.name) is not None


def _newest(job: Job, world: World) -> tuple[Path | None, tuple[str, ...]]:
    checkpoint, notes = rewind_to_newest(job)
    where = "the beginning: there is no checkpoint yet" if checkpoint is None else checkpoint.name
    return checkpoint, (f"restart {world.attempt}: from {where}", *notes)
