"""Where tables are printed, and the progress of commands that go through many images.

Progress goes to standard error, so that standard output contains only the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_UNFOLDED = 1_000_000
_SECONDS_BETWEEN_LINES = 10.0


def table_console() -> Console:
    """Return standard output as a console, as wide as its terminal; elsewhere no line is folded."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_UNFOLDED)


Advance = Callable[[str, int, int], None]
"""``advance(stage, done, total)`` shows the progress of a stage."""


@contextmanager
def open_progress() -> Iterator[Advance]:
    """Open the display for standard error: a bar on a terminal; elsewhere a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        yield advance


def _lines() -> Advance:
    last = time.monotonic()

    def advance(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)

    return advance


@contextmanager
def advice_when_interrupted(text: str) -> Iterator[None]:
    """Print ``text`` if the body is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {text}", file=sys.stderr)
        raise


def size_text(size: int) -> str:
    """Return ``size`` bytes as text, such as ``1.5 GiB``."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
