"""``shufflenet-fn data``: pack, check and measure training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shufflenet_fn.bench.settings import DataBenchSettings
from shufflenet_fn_cli.bench import AsJson, progress, show
from shufflenet_fn_cli.data_check import check
from shufflenet_fn_cli.data_info import info
from shufflenet_fn_cli.data_pack import pack
from shufflenet_fn_cli.data_verify import verify
from shufflenet_fn_cli.options import with_settings

data_app = typer.Typer(help="Pack, check and measure training data.", no_args_is_help=True)


@data_app.callback()
def root() -> None:
    """Pack, check and measure training data."""


data_app.command()(check)
data_app.command()(pack)
data_app.command()(verify)
data_app.command()(info)


@data_app.command()
@with_settings(DataBenchSettings)
def bench(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Image folder.")],
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Compare loaders: files, packed data and torchvision's DataLoader, up to normalised batches.

    Every loader runs in its own process, and the loaders take turns. The report has medians over
    rounds, CPU seconds including child processes, ratios to torchvision at its best number of workers
    with their intervals, and the cost of each stage of our loader on one thread.
    """
    from shufflenet_fn.bench.data import run_data_bench
    from shufflenet_fn_cli.bench_table import print_data_table

    show(run_data_bench(source, DataBenchSettings(**given), progress=progress), as_json, print_data_table)
