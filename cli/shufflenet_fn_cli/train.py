"""``shufflenet-fn train``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shufflenet_fn.run.presets import PRESETS
from shufflenet_fn.run.settings import TrainSettings
from shufflenet_fn_cli.options import with_settings

if TYPE_CHECKING:
    from shufflenet_fn.distributed.launch import Nodes
    from shufflenet_fn.distributed.world import World
    from shufflenet_fn.run.job import Job
    from shufflenet_fn.run.settings import TrainSettings as Settings


@with_settings(TrainSettings)
def train(
    preset: Annotated[
        str | None,
        typer.Option(help=f"Recipe to start from: {', '.join(PRESETS)}."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON file of settings; between preset and command line."),
    ] = None,
    **given: Any,
) -> None:
    """Train on an image folder, or on the built-in demo data with --preset demo.

    Later ones win: defaults, --preset, --config, the options below. Exit codes: 0 done, 1 failed,
    2 wrong usage, 3 device not available.
    """
    from shufflenet_fn.distributed.launch import launch
    from shufflenet_fn.distributed.world import World, world_from_environment
    from shufflenet_fn.run.start import prepare_job

    world = world_from_environment()
    job = prepare_job(given, preset=preset, config_file=config, argv=sys.argv, world=world)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if world is not None:
            run_with_display(job, world)
        elif job.world_size == 1:
            run_with_display(job, World())
        else:
            launch(
                run_with_display,
                job,
                processes=len(job.devices),
                nodes=_nodes(job.settings),
            )
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        print(
            f"\nstopped by {signal.Signals(number).name}. Go on from the last checkpoint with: "
            f"shufflenet-fn train --resume {job.run_dir}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + number) from None


def run_with_display(job: Job, world: World) -> dict[str, Any]:
    """One rank with its display. Module-level, because worker processes import it by name."""
    from shufflenet_fn.run.rank import run_rank
    from shufflenet_fn_cli.display import open_display

    with open_display() as display:
        return run_rank(job, world, display)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def _nodes(settings: Settings) -> Nodes:
    from shufflenet_fn.distributed.launch import DEFAULT_PORT, Nodes
    from shufflenet_fn_backends.errors import UsageError

    if settings.world_size == 1:
        return Nodes()
    endpoint = (settings.dist_url or "").removeprefix("tcp://")
    if not endpoint and settings.addr:
        endpoint = f"{settings.addr}:{DEFAULT_PORT}"
    if not endpoint:
        raise UsageError(
            f"--nnodes {settings.world_size} needs to know where the machines meet: give "
            "--rdzv-endpoint HOST:PORT (or --addr HOST) of machine 0 on all of them."
        )
    return Nodes(settings.world_size, settings.rank, endpoint)
