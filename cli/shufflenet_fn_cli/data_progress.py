"""Progress of commands that process a whole data set: a bar on a terminal, lines elsewhere.

It is written to standard error, so that standard output contains only the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Shows the progress of a stage."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@contextmanager
def open_progress(*, binary: bool = False) -> Iterator[Advance]:
    """Open the progress display that suits standard error during the body.

    ``binary``: progress is counted in bytes.
    """
    if not sys.stderr.isatty():
        yield _Lines(binary)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    count = DownloadColumn(binary_units=True) if binary else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        yield advance


@contextmanager
def advice_when_interrupted(text: str) -> Iterator[None]:
    """Print ``text`` if the body is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {text}", file=sys.stderr)
        raise


class _Lines:
    """A line per stage every ten seconds and at its end."""

    def __init__(self, binary: bool) -> None:
        self._binary = binary
        self._last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        shown = f"{size_text(done)} of {size_text(total)}" if self._binary else f"{done} of {total}"
        print(f"{stage}: {shown}", file=sys.stderr, flush=True)


def size_text(size: int) -> str:
    """Return ``size`` bytes as text, such as ``1.5 GiB``."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
