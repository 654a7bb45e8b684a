"""``shufflenet-fn train``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shufflenet_fn.config.options import declared
from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.config.resolve import without_empty
from shufflenet_fn.config.settings import EvalSettings, TrainSettings
from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_cli.evaluate import evaluate
from shufflenet_fn_cli.options import completing, importing, with_settings

if TYPE_CHECKING:
    from shufflenet_fn.distributed.world import World
    from shufflenet_fn.run.plan import RunPlan
    from shufflenet_fn.run.rank import Outcome


@with_settings(TrainSettings)
def train(
    preset: Annotated[
        str | None,
        typer.Option(help=f"Recipe to start from: {', '.join(PRESETS)}.", autocompletion=completing(PRESETS)),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of settings; overrides the preset.")
    ] = None,
    local_rank: Annotated[int, typer.Option(hidden=True)] = 0,
    start_epoch: Annotated[int, typer.Option(hidden=True)] = 0,
    checkpoint_nameprefix: Annotated[str, typer.Option(hidden=True)] = "checkpoint",
    evaluate_only: Annotated[bool, typer.Option("--evaluate", "-e", hidden=True)] = False,
    **given: Any,
) -> None:
    """Train on an image folder, or on the built-in demo data with --preset demo.

    Precedence, lowest first: defaults, --preset, --config, the options below. Exit codes: 0 done, 1 failed,
    2 wrong usage, 3 device not available, 75 stopped by a signal or --max-time, and saved.
    """
    given = without_empty(given)
    if evaluate_only:
        _evaluate(given)
        return
    with importing():
        from shufflenet_fn.distributed.worker import leaving_groups_at_once
        from shufflenet_fn.distributed.world import world_from_environment
        from shufflenet_fn.run.plan import prepare_run
        from shufflenet_fn.run.rank import run_plan
        from shufflenet_fn.run.stopping import EXIT_RESUMABLE, Stopped

    world = world_from_environment()
    if start_epoch:
        raise UsageError(
            f"--start-epoch {start_epoch} has no place here: --resume RUN knows where it goes on."
        )
    if checkpoint_nameprefix != "checkpoint":
        _warn(f"--checkpoint-nameprefix {checkpoint_nameprefix} is not used, as in the original.")
    if local_rank and world is None:
        _warn(
            f"--local_rank {local_rank} does nothing: --local_rank 0 starts a process for each device. One "
            "command without --local_rank does."
        )
        return
    with leaving_groups_at_once(), contextlib.ExitStack() as held:
        plan = prepare_run(given, preset=preset, config_file=config, argv=sys.argv, held=held, world=world)
        if plan.nodes.node_rank:
            print(f"waiting for machine 0 at {plan.nodes.endpoint}", file=sys.stderr)
        outcome = run_plan(plan, world, run_with_display)
    if isinstance(outcome, Stopped):
        if world is None or world.is_main:
            print(outcome, file=sys.stderr)
        raise typer.Exit(EXIT_RESUMABLE)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _evaluate(given: dict[str, Any]) -> None:
    """Do what the original's ``--evaluate`` does, by ``shufflenet-fn evaluate``."""
    weights = given.get("resume") or given.get("pretrained")
    if weights is None:
        raise UsageError("--evaluate needs weights: give --resume FILE, or use shufflenet-fn evaluate FILE.")
    names = {item.name for item in declared(EvalSettings)}
    wanted = {name: value for name, value in given.items() if name in names}
    if "device_list" in given:
        wanted["devices"] = len(given["device_list"].split(","))
    if "batch_size" in wanted:  # of all devices together
        wanted["batch_size"] = max(1, wanted["batch_size"] // wanted.get("devices", 1))
    if given.get("amp"):
        wanted.setdefault("precision", given.get("opt_level", TrainSettings.opt_level))
    _warn("--evaluate is shufflenet-fn evaluate now; options of training are not used.")
    evaluate(model=weights, **wanted)


def run_with_display(plan: RunPlan, world: World) -> Outcome:
    """Run one rank with its display. Module-level, because worker processes import it by name."""
    from shufflenet_fn.run.events import Reporter
    from shufflenet_fn.run.rank import run_rank
    from shufflenet_fn_cli.display import open_display

    if not world.is_main:
        return run_rank(plan, world, Reporter())
    with open_display() as display:
        return run_rank(plan, world, display)
