"""From what the user typed to a job with a run directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.auto_resume import find_run
from shufflenet_fn.run.directory import CONFIG, check_links, create_run_dir, write_description
from shufflenet_fn.run.durations import parse_duration
from shufflenet_fn.run.job import Job, plan_job, resumed, run_of
from shufflenet_fn.run.lock import held as lock
from shufflenet_fn.run.options import declared
from shufflenet_fn.run.resolve import Resolved, resolve
from shufflenet_fn.run.rewind import rewind_to
from shufflenet_fn.run.settings import TrainSettings
from shufflenet_fn_backends.support.errors import UsageError, UserError

AUTO = "auto"


def prepare_job(
    given: Mapping[str, Any],
    *,
    preset: str | None,
    config_file: Path | None,
    argv: Sequence[str],
    held: contextlib.ExitStack,
    world: World | None = None,
) -> Job:
    """Resolve, check, and make the run directory.

    Args:
        given: the settings that the command line gives explicitly.
        preset, config_file: where the others come from.
        argv: the command, for the record.
        held: takes the lock of the run directory, to be kept for the life of the run.
        world: set when torchrun started this process: the number of processes is torchrun's, and the run
            directory must be named, since ranks cannot agree on a free one.

    Raises:
        UsageError, DeviceError, UserError: with the one thing that is wrong.
    """
    started = time.monotonic()

    def choose() -> _Source:
        source = _source(given, preset=preset, config_file=config_file, world=world)
        if world is None:
            return source
        resolved, notes = _under_torchrun(source.resolved, given, world)
        return source._replace(resolved=resolved, notes=(*source.notes, *notes))

    def plan(source: _Source) -> Job:
        limit = source.resolved.settings.max_time
        deadline = None if limit is None else started + parse_duration(limit, "--max-time")
        job = plan_job(source.resolved, resume=source.checkpoint, meets=world is None)
        return job._replace(deadline=deadline)

    def is_main(resolved: Resolved) -> bool:
        return (world is None or world.is_main) and resolved.settings.node_rank == 0

    source, warning = choose(), None
    while source.run_dir is not None and is_main(source.resolved):
        with contextlib.ExitStack() as taken:
            with _node_rank_named(source.resolved.settings, given, world):
                warning = taken.enter_context(lock(source.run_dir))
            # Whoever held the run until now, such as a job that is being stopped, may have gone on with it.
            before, source = source, choose()
            if source.run_dir == before.run_dir:
                held.push(taken.pop_all())
                break
    job = plan(source)
    with _node_rank_named(job.settings, given, world):
        run_dir = source.run_dir or _run_dir(source.resolved, world)
        if source.run_dir is None and is_main(source.resolved):
            warning = held.enter_context(lock(run_dir))
        check_links(run_dir)
    checkpoint, notes = source.checkpoint, list(source.notes)
    if is_main(source.resolved):
        # Of processes that torchrun has started again, rank 0 looks for the newest checkpoint first.
        if source.run_dir is not None and (world is None or not world.attempt):
            checkpoint, set_aside = rewind_to(checkpoint, run_dir)
            notes += set_aside
        write_description(run_dir, job.resolved, argv)
    return job._replace(
        run_dir=run_dir,
        resume=checkpoint,
        notes=(*job.notes, *notes),
        warnings=job.warnings if warning is None else (*job.warnings, warning),
    )


@contextlib.contextmanager
def _node_rank_named(
    settings: TrainSettings, given: Mapping[str, Any], world: World | None
) -> Iterator[None]:
    """Say of an error of the run directory's that it may be another machine's."""
    try:
        yield
    except UserError as error:
        if world is None and settings.num_nodes > 1 and "node_rank" not in given:
            raise type(error)(
                f"{error} (Without --node-rank this is machine 0 of {settings.num_nodes}: every "
                "other one needs its own number.)"
            ) from error
        raise


class _Source(NamedTuple):
    """Settings, and what is gone on with. ``run_dir``: of a run that is there; it has to be brought back."""

    resolved: Resolved
    checkpoint: Path | None
    run_dir: Path | None
    notes: tuple[str, ...]


def _source(
    given: Mapping[str, Any], *, preset: str | None, config_file: Path | None, world: World | None
) -> _Source:
    path = given.get("resume")
    notes: list[str] = []
    if world is not None and world.attempt:
        # torchrun starts the same command again after a failure. A checkpoint that it names may have been
        # removed since, as the run has gone on.
        if path is None:
            path = AUTO
        elif path != AUTO and not Path(path).exists():
            path = run_of(Path(path)) or path
    if path == AUTO:
        fresh = resolve(given, preset=preset, config_file=config_file)
        found, notes = find_run(fresh.settings)
        if found is None:
            # Of a run that ended before its first checkpoint a directory may be there.
            begun = Path(fresh.settings.run_dir) if fresh.settings.run_dir is not None else None
            is_one = begun is not None and (begun / CONFIG).exists()
            return _Source(fresh, None, begun if is_one else None, tuple(notes))
        path = found
        given = {k: v for k, v in given.items() if k not in ("resume", "run_dir", "output")}
        if fresh.settings.max_time is not None:
            given["max_time"] = fresh.settings.max_time
        if preset or config_file:
            notes.append("settings are the run's own; --preset and --config are not read again")
    elif path is None:
        fresh = resolve(given, preset=preset, config_file=config_file)
        return _Source(fresh, None, None, ())
    elif preset or config_file:
        raise UsageError(
            "--resume goes on with the run's own settings, so --preset and --config have no place "
            "beside it. Single options may be changed."
        )
    resolved, checkpoint, run_dir, said = resumed(Path(path), given)
    return _Source(resolved, checkpoint, run_dir, (*notes, *said))


def _under_torchrun(
    resolved: Resolved, given: Mapping[str, Any], world: World
) -> tuple[Resolved, list[str]]:
    """Return the settings with torchrun's numbers of machines and processes, and notes on unused options."""
    listed = resolved.settings.device_list
    if listed is not None and len(listed.split(",")) != world.local_size:
        raise UsageError(
            f"--device-list {listed} does not name {world.local_size} devices, one for each process that "
            "torchrun started on this machine (--nproc-per-node)."
        )
    restarts = resolved.settings.max_restarts
    if restarts:
        raise UsageError(
            f"--max-restarts {restarts} has no effect below torchrun, which restarts processes itself. Give "
            "--max-restarts to torchrun, and --max-restarts 0 here."
        )
    settings = replace(
        resolved.settings,
        devices=world.local_size,
        num_nodes=world.size // world.local_size,
        node_rank=world.rank // world.local_size,
    )
    own = {name: getattr(settings, name) for name in ("devices", "num_nodes", "node_rank")}
    meeting = ("rdzv_endpoint", "master_addr", "join_timeout")
    unused = [
        name for name in given if name in meeting or own.get(name, given[name]) != given[name]
    ]
    flags = [item.option.flags[0] for item in declared(TrainSettings) if item.name in unused]
    notes = [f"{', '.join(flags)} not used: torchrun has started the processes"] if flags else []
    origin = {**resolved.origin, "devices": "torchrun", "num_nodes": "torchrun"}
    return resolved._replace(settings=settings, origin=origin), notes


def _run_dir(resolved: Resolved, world: World | None) -> Path:
    settings = resolved.settings
    several = world is not None or settings.num_nodes > 1
    if several and settings.run_dir is None:
        raise UsageError(
            "a run of several machines, or under torchrun, needs --run-dir DIR: its processes cannot "
            "agree on a free name by themselves."
        )
    path = Path(str(settings.run_dir))
    if several and (world.rank if world else settings.node_rank) != 0:
        path.mkdir(parents=True, exist_ok=True)
        return path
    if world is not None and world.attempt and (path / CONFIG).exists():
        return path  # made before the failure
    return create_run_dir(resolved)
