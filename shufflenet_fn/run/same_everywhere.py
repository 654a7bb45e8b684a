"""Whether all machines of a run do the same: settings, data, and a run directory that all of them see."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.config.derived import global_batch, lanes_of
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.directory import LOCK
from shufflenet_fn.run.identity import DATA, ROUNDING
from shufflenet_fn.run.plan import Job
from shufflenet_fn_backends.support.errors import UsageError

# Its number and its way to the others; its cores and devices; where its copy of the data is; and what only
# rank 0 goes by, or only the start.
_OF_ONE_MACHINE: Final = frozenset(
    (
        *("rank", "addr", "dist_url", "join_timeout", "workers", "threads", "device_list", "data"),
        *("resume", "output", "profile", "max_time"),
    )
)
_SEEN_WITHIN_S: Final = 5.0


class _Start(NamedTuple):
    host: str
    settings: Mapping[str, Any]
    lock: bytes | None


def check_same_job(job: Job, world: World) -> None:
    """Return on every rank if the ranks of all machines were given the same job.

    Raises:
        UsageError: on every rank: settings differ, or ranks have different folders as their run directory.
    """
    if world.size == world.local_size:
        if world.board is None:  # torchrun started them; a launcher of ours gives one job to all
            _check_same_start(job, world)
        return
    own = _Start(socket.gethostname(), _compared(job, world), _lock_of(job.run_dir))
    first = gather(own, world)[0]
    if own.lock != first.lock:
        # On a network's file system it may take a moment until others see what one has written.
        deadline = time.monotonic() + _SEEN_WITHIN_S
        while own.lock != first.lock and time.monotonic() < deadline:
            time.sleep(0.2)
            own = own._replace(lock=_lock_of(job.run_dir))
    for rank, start in enumerate(gather(own, world)):
        where = f"machine {rank // world.local_size} ({start.host})"
        if differing := _differing(first.settings, start.settings, "machine 0"):
            raise UsageError(
                f"{where} was given other settings than machine 0 ({first.host}): {differing}. Give all "
                "machines the same command, each with its own --node-rank."
            )
        if start.lock != first.lock:
            raise UsageError(
                f"the run directory {job.run_dir} is another folder on {where} than on machine 0 "
                f"({first.host}). Every rank writes its log there, and all read checkpoints there when the "
                "run goes on after a failure: put it on a file system that all machines share, under the "
                "same path, and name that by --run-dir."
            )


def _check_same_start(job: Job, world: World) -> None:
    # Each rank has looked by itself for the run to go on with, and at the settings stored in it.
    own = {**_compared(job, world), "run_dir": str(job.run_dir.resolve())}
    first, *others = gather(own, world)
    for rank, other in enumerate(others, start=1):
        if differing := _differing(first, other, "rank 0"):
            raise UsageError(
                f"rank {rank} was given other settings than rank 0: {differing}. Give all ranks the same "
                "options; where they resume a run that another process was just ending, give the command "
                "again."
            )


def check_same_data(identity: Mapping[str, Any], world: World) -> list[str]:
    """Warnings about machines that compute with something else than machine 0.

    Raises:
        UsageError: on every rank: a machine has other training data.
    """
    if world.size == world.local_size:
        return []
    starts = gather((socket.gethostname(), dict(identity)), world)
    first_host, first = starts[0]
    warnings: dict[int, str] = {}
    for rank, (host, other) in enumerate(starts):
        machine = rank // world.local_size
        differing = [name for name in first if other.get(name) != first[name]]
        if data := [name for name in differing if name in DATA]:
            raise UsageError(
                f"machine {machine} ({host}) has other data than machine 0 ({first_host}): "
                f"{_shown(data, first, other)}. The folder that --data names must hold the same files on all "
                "machines."
            )
        if differing:
            warnings.setdefault(
                machine,
                f"machine {machine} ({host}) is not like machine 0 ({first_host}): "
                f"{_shown(differing, first, other)}; {ROUNDING}",
            )
    return list(warnings.values())


def _compared(job: Job, world: World) -> dict[str, Any]:
    """Settings by name; of choices what they come to, since a resume has them from the run's start."""
    settings = job.settings
    return {
        **{
            name: value
            for name, value in dataclasses.asdict(settings).items()
            if name not in (*_OF_ONE_MACHINE, "accumulate", "benchmark")
        },
        "lanes": lanes_of(settings, world.size),
        "images of an update": global_batch(settings, world.size),
        "backend": job.backend,
    }


def _differing(first: Mapping[str, Any], other: Mapping[str, Any], where: str) -> str:
    return "; ".join(
        f"{name} is {other[name]}, and {value} on {where}"
        for name, value in first.items()
        if other[name] != value
    )


def _shown(names: Sequence[str], first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} differ"
        if name in ("training classes", "training files")
        else f"{name} is {other.get(name)}, and {first[name]} on machine 0"
        for name in names
    )


def _lock_of(run_dir: Path) -> bytes | None:
    """What rank 0's launcher has written when it took the run directory: another text for every start."""
    try:
        return (run_dir / LOCK).read_bytes()
    except OSError:
        return None
