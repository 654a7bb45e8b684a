"""Running a job: in this process, or by the launcher, and with fewer devices where one has gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shufflenet_fn.distributed.failures import Failure
from shufflenet_fn.distributed.launch import Launch, RankFailed, launch
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.fewer import with_fewer_devices
from shufflenet_fn.run.listening import say
from shufflenet_fn.run.plan import Job
from shufflenet_fn.run.restarting import rewind_to_newest
from shufflenet_fn.run.stopping import Stopped, at_once_text, stopping_text
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.runtimes.settling import ATTEMPTS
from shufflenet_fn_backends.support.subprocesses import run_module

Outcome = dict[str, Any] | Stopped
Rank = Callable[[Job, World], Outcome]

_ANSWERS_WITHIN_S: Final = 120.0


def run_job(job: Job, world: World | None, rank: Rank) -> Outcome:
    """Run ``job`` to its end by ``rank(job, world)``, a module-level function, once for each device.

    In this process if it is one of torchrun's (``world``) or the only one; else in processes of their own,
    which are watched and, as ``--max-restarts`` and ``--min-devices`` allow, started again.

    Raises:
        RankFailed, UserError: the run has failed.
    """
    if world is not None:
        return rank(job, world)
    if job.world_size == 1 and not _asks_for_a_watch(job):
        return rank(job, World())
    while True:
        try:
            return launch(
                rank,
                job,
                processes=len(job.devices),
                nodes=job.nodes,
                watching=_watching(job),
            )
        except RankFailed as failed:
            fewer = with_fewer_devices(job, failed)
            if fewer is None:
                raise
            say(fewer.warnings[-1])
            if settling := runtime_of(job.device).settling:
                settling.wait(say)
            checkpoint, notes = rewind_to_newest(job)
            job = fewer._replace(resume=checkpoint, notes=(*fewer.notes, *notes))


def _asks_for_a_watch(job: Job) -> bool:
    """Whether a single process needs a launcher beside it, which costs seconds at the start."""
    settings = job.settings
    return (
        settings.max_restarts > 0
        or settings.min_devices is not None
        or job.resolved.origin.get("hang_timeout", "default") != "default"
    )


def _watching(job: Job) -> Launch:
    return Launch(
        hang_timeout_s=job.settings.hang_timeout,
        max_restarts=job.settings.max_restarts,
        may_restart=lambda failure: device_answers(job, failure),
        settling=runtime_of(job.device).settling,
        say=say,
        stopping=lambda number: say(stopping_text(number)),
        stopped=lambda number: say(at_once_text(number, job.run_dir)),
    )


def device_answers(job: Job, failure: Failure) -> bool:
    """Whether the device of a rank that has failed can still be used, asked in a process of its own.

    A device that says it is still held is asked again after a wait, as often as a start would be.
    """
    runtime = runtime_of(job.device)
    if runtime.shares:
        return True  # the CPU
    number = job.devices[failure.local_rank]
    for attempt in range(1, ATTEMPTS + 1):
        answer = run_module(
            "shufflenet_fn.run.device_answers",
            [job.device, str(number)],
            timeout_s=_ANSWERS_WITHIN_S,
        )
        settling = runtime.settling
        if answer.code == 0 or settling is None or not settling.refused(answer.text):
            return answer.code == 0
        if attempt < ATTEMPTS:
            settling.wait(say)
    return False
