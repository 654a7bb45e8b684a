"""A trace of a few training steps, behind ``--profile``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from shufflenet_fn.run.events import Reporter
from shufflenet_fn_backends.runtimes.base import Profiler, Runtime, Window
from shufflenet_fn_backends.support.errors import UserError

T = TypeVar("T")


@contextmanager
def profiled(
    batches: Iterator[T], folder: str | None, steps: int, runtime: Runtime, reporter: Reporter
) -> Iterator[Iterator[T]]:
    """``batches``, with the steps that are taken on them recorded in ``folder`` if there is one.

    A step is what happens between one ``next`` and the following.

    Args:
        batches: one for each step.
        folder: where traces go; ``None`` for none.
        steps: how many will be taken.
        runtime: whose profiler records.
        reporter: told which steps were recorded and where.

    Raises:
        UserError: the folder cannot be written.
    """
    if folder is None or steps == 0:
        yield batches
        return
    window = fitted(steps)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the profile in {path}: {error.strerror or error}. Name another folder with "
            "--profile."
        ) from None
    with runtime.profiler(path, "rank0", window) as profiler:
        yield _with_steps(batches, profiler)
        profiler.step()  # after the last batch nobody asks for another
    first = window.skip + window.warm_up + 1
    reporter.note(f"profile: steps {first} to {window.length} of this start are in {path}")


def fitted(steps: int) -> Window:
    """The usual window, moved forward and cut where a run has fewer steps."""
    usual = Window()
    warm_up = min(usual.warm_up, steps - 1)
    record = min(usual.record, steps - warm_up)
    return Window(min(usual.skip, steps - warm_up - record), warm_up, record)


def _with_steps(batches: Iterator[T], profiler: Profiler) -> Iterator[T]:
    for batch in batches:
        yield batch
        profiler.step()
