"""The checkpoint that all ranks start from: after a restart, the newest good one."""

from __future__ import annotations

from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.consistency import check_same_plan
from shufflenet_fn.run.directory import rewind_to
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.resume import Chosen, Resume, newest_of, same_or_read


def agreed(plan: RunPlan, world: World) -> RunPlan:
    """Return ``plan`` with the checkpoint that rank 0 has chosen.

    After a restart, rank 0 looks for the newest good checkpoint and rewinds the run directory to it.

    Raises:
        UsageError: ranks were given different jobs.
    """
    check_same_plan(plan, world)
    resume: Resume | None = plan.resume
    notes: tuple[str, ...] = ()
    if world.is_main and world.attempt:
        resume, notes = _newest(plan, world)
    own = None if resume is None else Chosen(resume.checkpoint, resume.content.fingerprint)
    chosen, notes = gather((own, notes), world)[0]
    if not world.is_main:
        resume = same_or_read(resume, chosen, plan.run_dir)
    return plan._replace(resume=resume, notes=(*plan.notes, *notes))


def rewind_to_newest(plan: RunPlan) -> tuple[Resume | None, list[str]]:
    """Rewind the run directory of ``plan`` to ``newest_of`` it; notes also on skipped checkpoints.

    Raises:
        UserError: as ``newest_of`` and ``rewind``.
    """
    resume, skipped = newest_of(plan.run_dir, plan.resume)
    content, set_aside = rewind_to(None if resume is None else resume.content, plan.run_dir)
    if resume is not None and content is not None:
        resume = resume._replace(content=content)
    return resume, [*skipped, *set_aside]


def _newest(plan: RunPlan, world: World) -> tuple[Resume | None, tuple[str, ...]]:
    resume, notes = rewind_to_newest(plan)
    where = (
        "the beginning: there is no checkpoint yet" if resume is None else resume.checkpoint.name
    )
    return resume, (f"restart {world.attempt}: from {where}", *notes)
