"""Checks that all ranks were given the same settings, data and run directory; one checkpoint for all."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.config.derived import global_batch, microbatches_of
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.directory import rewind_to
from shufflenet_fn.run.fingerprint import DATA, ROUNDING
from shufflenet_fn.run.lock import LOCK
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.resume import Chosen, Resume, newest_of, same_or_read
from shufflenet_fn_backends.support.errors import UsageError

# What may differ between machines: how they meet, their devices and cores, the path of their data, and what
# only rank 0 or only the start uses.
_OF_ONE_MACHINE: Final = frozenset(
    (
        *("node_rank", "master_addr", "rdzv_endpoint", "join_timeout", "workers", "threads"),
        *("device_list", "data", "resume", "output", "profile", "max_time"),
    )
)
_SEEN_WITHIN_S: Final = 5.0


class _Start(NamedTuple):
    host: str
    settings: Mapping[str, Any]
    lock: bytes | None


def check_same_plan(plan: RunPlan, world: World) -> None:
    """Check that all ranks were given the same plan.

    Raises:
        UsageError: settings or run directories differ; raised on every rank.
    """
    if _one_job_for_all(world):
        return
    own = _Start(socket.gethostname(), _compared(plan, world), _lock_of(plan.run_dir, world))
    starts = gather(own, world)
    names = [_name(rank, start.host, world) for rank, start in enumerate(starts)]
    first = starts[0]
    for name, start in zip(names, starts, strict=True):
        if differing := _differing(first.settings, start.settings, _short_name(world)):
            raise UsageError(
                f"{name} was given other settings than {names[0]}: {differing}. Give all "
                + (
                    "machines the same command, each with its own --node-rank."
                    if _several(world)
                    else "ranks the same options; where they resume a run that another process was just "
                    "ending, give the command again."
                )
            )
    if any(start.lock != first.lock for start in starts):
        # On a network file system, others see a write only after a moment.
        deadline = time.monotonic() + _SEEN_WITHIN_S
        while own.lock != first.lock and time.monotonic() < deadline:
            time.sleep(0.2)
            own = own._replace(lock=_lock_of(plan.run_dir, world))
        for name, lock in zip(names, gather(own.lock, world), strict=True):
            if lock != first.lock:
                raise UsageError(
                    f"the run directory {plan.run_dir} is another folder on {name} than on {names[0]}. Every "
                    "rank writes its log there, and all read checkpoints there at a resume: put it on a file "
                    "system that all machines share, under the same path, and name that by --run-dir."
                )


def check_same_data(identity: Mapping[str, Any], world: World) -> list[str]:
    """Return warnings about machines on which sums may be rounded differently.

    Raises:
        UsageError: training data differ; raised on every rank.
    """
    if _one_job_for_all(world):
        return []
    starts = gather((socket.gethostname(), dict(identity)), world)
    first_host, first = starts[0]
    first_name, short = _name(0, first_host, world), _short_name(world)
    warnings: dict[str, str] = {}
    for rank, (host, other) in enumerate(starts):
        name = _name(rank, host, world)
        differing = [key for key in first if other.get(key) != first[key]]
        if data := [key for key in differing if key in DATA]:
            raise UsageError(
                f"{name} has other data than {first_name}: {_shown(data, first, other, short)}. The folder "
                "that --data names must hold the same files for all."
            )
        if differing:
            text = f"{name} is not like {first_name}: {_shown(differing, first, other, short)}; {ROUNDING}"
            warnings.setdefault(name, text)
    return list(warnings.values())


def _several(world: World) -> bool:
    return world.size > world.local_size


def _one_job_for_all(world: World) -> bool:
    """Return whether our launcher gave one plan to all ranks: there is nothing to compare."""
    return world.size == 1 or (world.heartbeats is not None and not _several(world))


def _name(rank: int, host: str, world: World) -> str:
    return f"machine {rank // world.local_size} ({host})" if _several(world) else f"rank {rank}"


def _short_name(world: World) -> str:
    return "machine 0" if _several(world) else "rank 0"


def _compared(plan: RunPlan, world: World) -> dict[str, Any]:
    """Return settings by name, and the values that a resume may derive in different ways."""
    settings = plan.settings
    # Several machines may have different paths to one run directory; its lock is compared.
    one = {} if _several(world) else {"run_dir": str(plan.run_dir.resolve())}
    return {
        **{
            name: value
            for name, value in dataclasses.asdict(settings).items()
            if name not in (*_OF_ONE_MACHINE, "accumulate", "benchmark")
        },
        "lanes": microbatches_of(settings, world.size),
        "images of an update": global_batch(settings, world.size),
        "backend": plan.backend,
        **one,
    }


def _differing(first: Mapping[str, Any], other: Mapping[str, Any], where: str) -> str:
    return "; ".join(
        f"{name} is {other[name]}, and {value} on {where}"
        for name, value in first.items()
        if other[name] != value
    )


def _shown(names: Sequence[str], first: Mapping[str, Any], other: Mapping[str, Any], where: str) -> str:
    return "; ".join(
        f"{name} differ"
        if name in ("training classes", "training files")
        else f"{name} is {other.get(name)}, and {first[name]} on {where}"
        for name in names
    )


def _lock_of(run_dir: Path, world: World) -> bytes | None:
    """Return the lock that machine 0 wrote when it took the run directory; it differs with every start."""
    if not _several(world):
        return None
    try:
        return (run_dir / LOCK).read_bytes()
    except OSError:
        return None


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


def _newest(plan: RunPlan, world: World) -> tuple[Resume | None, tuple[str, ...]]:
    """Rewind the run directory of ``plan`` to the newest good checkpoint; notes also on skipped ones."""
    resume, skipped = newest_of(plan.run_dir, plan.resume)
    content, set_aside = rewind_to(None if resume is None else resume.content, plan.run_dir)
    if resume is not None and content is not None:
        resume = resume._replace(content=content)
    where = "the beginning: there is no checkpoint yet" if resume is None else resume.checkpoint.name
    return resume, (f"restart {world.attempt}: from {where}", *skipped, *set_aside)
