"""Where tables are printed."""

from __future__ import annotations

import sys

from rich.console import Console

_UNFOLDED = 1_000_000


def table_console() -> Console:
    """Return standard output as a console, as wide as its terminal; elsewhere no line is folded."""
    return Console() if sys.stdout.isatty() else Console(width=_UNFOLDED)
