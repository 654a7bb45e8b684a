"""``shufflenet-fn train``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn_cli.importing import importing
from shufflenet_fn_cli.options import with_settings

if TYPE_CHECKING:
    from shufflenet_fn.distributed.world import World
    from shufflenet_fn.run.launching import Outcome
    from shufflenet_fn.run.plan import RunPlan


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
    2 wrong usage, 3 device not available, 75 stopped by a signal or --max-time, and saved.
    """
    with importing():
        from shufflenet_fn.distributed.worker import leaving_groups_at_once
        from shufflenet_fn.distributed.world import world_from_environment
        from shufflenet_fn.run.launching import run_plan
        from shufflenet_fn.run.plan import prepare_run
        from shufflenet_fn.run.stopping import EXIT_RESUMABLE, Stopped

    world = world_from_environment()
    with leaving_groups_at_once(), contextlib.ExitStack() as held:
        plan = prepare_run(
            given, preset=preset, config_file=config, argv=sys.argv, held=held, world=world
        )
        if plan.nodes.node_rank:
            print(f"waiting for machine 0 at {plan.nodes.endpoint}", file=sys.stderr)
        outcome = run_plan(plan, world, run_with_display)
    if isinstance(outcome, Stopped):
        if world is None or world.is_main:
            print(outcome, file=sys.stderr)
        raise typer.Exit(EXIT_RESUMABLE)


def run_with_display(plan: RunPlan, world: World) -> Outcome:
    """One rank with its display. Module-level, because worker processes import it by name."""
    from shufflenet_fn.run.rank import Silent, run_rank
    from shufflenet_fn_cli.display import open_display

    if not world.is_main:
        return run_rank(plan, world, Silent())
    with open_display() as display:
        return run_rank(plan, world, display)
