"""From what the user typed to a job with a run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.directory import create_run_dir, write_description
from shufflenet_fn.run.job import Job, plan_job, resumed
from shufflenet_fn.run.resolve import Resolved, resolve
from shufflenet_fn.run.rewind import rewind
from shufflenet_fn_backends.errors import UsageError


def prepare_job(
    given: Mapping[str, Any],
    *,
    preset: str | None,
    config_file: Path | None,
    argv: Sequence[str],
    world: World | None = None,
) -> Job:
    """Resolve, check, and make the run directory.

    Args:
        given: the settings that the command line gives explicitly.
        preset, config_file: where the others come from.
        argv: the command, for the record.
        world: set when torchrun started this process: the number of processes is torchrun's, and the run
            directory must be named, since ranks cannot agree on a free one.

    Raises:
        UsageError, DeviceError, UserError: with the one thing that is wrong.
    """
    notes: list[str] = []
    checkpoint: Path | None = None
    run_dir: Path | None = None
    if given.get("resume"):
        if preset or config_file:
            raise UsageError(
                "--resume goes on with the run's own settings, so --preset and --config have no place "
                "beside it. Single options may be changed."
            )
        resolved, checkpoint, run_dir, notes = resumed(Path(given["resume"]), given)
    else:
        resolved = resolve(given, preset=preset, config_file=config_file)
    if world is not None:
        resolved = _under_torchrun(resolved, world)
    job = plan_job(resolved, resume=checkpoint)
    is_main = world is None or world.is_main
    if run_dir is None:
        run_dir = _run_dir(resolved, world)
    elif checkpoint is not None and is_main and resolved.settings.rank == 0:
        manifest = read_manifest(checkpoint)
        # As often as lines were written, which may be changed from here on.
        print_freq = manifest["settings"].get("print_freq", 1)
        notes += rewind(run_dir, manifest["step"], manifest["steps_per_epoch"], print_freq)
    if is_main and resolved.settings.rank == 0:
        write_description(run_dir, job.resolved, argv)
    return job._replace(run_dir=run_dir, notes=(*job.notes, *notes))


def _under_torchrun(resolved: Resolved, world: World) -> Resolved:
    listed = resolved.settings.device_list
    if listed is not None and len(listed.split(",")) != world.local_size:
        raise UsageError(
            f"--device-list {listed} does not name {world.local_size} devices, one for each process that "
            "torchrun started on this machine (--nproc-per-node)."
        )
    settings = replace(
        resolved.settings,
        devices=world.local_size,
        world_size=world.size // world.local_size,
        rank=world.rank // world.local_size,
    )
    return resolved._replace(
        settings=settings,
        origin={**resolved.origin, "devices": "torchrun", "world_size": "torchrun"},
    )


def _run_dir(resolved: Resolved, world: World | None) -> Path:
    settings = resolved.settings
    several = world is not None or settings.world_size > 1
    if several and settings.run_dir is None:
        raise UsageError(
            "a run of several machines, or under torchrun, needs --run-dir DIR: its processes cannot "
            "agree on a free name by themselves."
        )
    if several and (world.rank if world else settings.rank) != 0:
        path = Path(str(settings.run_dir))
        path.mkdir(parents=True, exist_ok=True)
        return path
    return create_run_dir(resolved)
