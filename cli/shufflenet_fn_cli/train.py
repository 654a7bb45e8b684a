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
    from shufflenet_fn.distributed.world import World
    from shufflenet_fn.run.job import Job


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
    from shufflenet_fn.distributed.launch import Launch, launch
    from shufflenet_fn.distributed.world import World, world_from_environment
    from shufflenet_fn.run.start import prepare_job

    world = world_from_environment()
    job = prepare_job(given, preset=preset, config_file=config, argv=sys.argv, world=world)
    try:
        if world is not None:
            run_with_display(job, world)
        elif job.world_size == 1:
            # Only here: a handler in Python does not run while a rank waits for others in C++.
            signal.signal(signal.SIGTERM, _interrupt)
            run_with_display(job, World())
        else:
            if job.nodes.rank:
                print(f"waiting for machine 0 at {job.nodes.endpoint}", file=sys.stderr)
            launch(
                run_with_display,
                job,
                processes=len(job.devices),
                nodes=job.nodes,
                watching=Launch(stopped=lambda number: _say_stopped(job, number)),
            )
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        _say_stopped(job, number)
        raise typer.Exit(128 + number) from None


def _say_stopped(job: Job, number: int) -> None:
    hint = (
        f"Go on from the last checkpoint with: shufflenet-fn train --resume {job.run_dir}"
        if (job.run_dir / "checkpoints" / "latest.json").exists()
        else "There is no checkpoint yet to go on from."
    )
    print(f"\nstopped by {signal.Signals(number).name}. {hint}", file=sys.stderr, flush=True)


def run_with_display(job: Job, world: World) -> dict[str, Any]:
    """One rank with its display. Module-level, because worker processes import it by name."""
    from shufflenet_fn.run.rank import Silent, run_rank
    from shufflenet_fn_cli.display import open_display

    if not world.is_main:
        return run_rank(job, world, Silent())
    with open_display() as display:
        return run_rank(job, world, display)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)
