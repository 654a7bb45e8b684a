"""``shufflenet-fn data``: pack, check and measure training data. One module per command."""

from __future__ import annotations

import typer

data_app = typer.Typer(help="Pack, check and measure training data.", no_args_is_help=True)


@data_app.callback()
def root() -> None:
    """Pack, check and measure training data."""
