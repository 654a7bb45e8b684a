"""``shufflenet-fn data``: pack, check and measure training data. One module per command."""

from __future__ import annotations

import typer

from shufflenet_fn_cli.data_bench import bench
from shufflenet_fn_cli.data_check import check
from shufflenet_fn_cli.data_info import info
from shufflenet_fn_cli.data_pack import pack
from shufflenet_fn_cli.data_verify import verify

data_app = typer.Typer(help="Pack, check and measure training data.", no_args_is_help=True)


@data_app.callback()
def root() -> None:
    """Pack, check and measure training data."""


data_app.command()(check)
data_app.command()(pack)
data_app.command()(verify)
data_app.command()(info)
data_app.command()(bench)
