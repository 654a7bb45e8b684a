"""``shufflenet-fn bench``: measurements that always have a peer in the same run."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn_cli.options import with_settings

bench_app = typer.Typer(
    help="Measure against torchvision, interleaved in the same run.", no_args_is_help=True
)


@bench_app.command()
@with_settings(StepBenchSettings)
def step(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
    **given: Any,
) -> None:
    """A whole training step on random images: ours against torchvision's model and torch's SGD.

    Every contender runs in a process of its own with the same threads, and they take turns. Reported
    are medians over rounds, ratios as medians of the rounds' ratios, and peak memory per process.
    """
    from shufflenet_fn.bench.step import run_step_bench
    from shufflenet_fn.run.json_text import to_json

    result = run_step_bench(
        StepBenchSettings(**given), progress=lambda text: print(text, file=sys.stderr)
    )
    if as_json:
        print(to_json(result))
        return
    from shufflenet_fn_cli.bench_table import print_step_table

    print_step_table(result)


@bench_app.callback()
def root() -> None:
    """Measure against torchvision, interleaved in the same run."""
