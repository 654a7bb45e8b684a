"""Runs numbered trials in a separate process, so that a crash or a hang of one trial is only its result."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_IMPORT_S = 60.0
"""Additional seconds for the first trial of a process."""


class Ended(NamedTuple):
    """How trial ``number`` ended: its result, or ``None`` and the reason for the failure."""

    number: int
    result: Any
    reason: str = ""


def supervised(
    make: Callable[..., Callable[[int], Any]], arguments: tuple[Any, ...], numbers: range, *, limit_s: float
) -> Iterator[Ended]:
    """``make(*arguments)(number)`` for all ``numbers``, in order.

    A trial that crashes its process or takes longer than ``limit_s`` ends with a reason. The following trials
    run in a new process.

    Args:
      make: module-level function that builds the trial in its process. ``arguments`` must be picklable.
      arguments: for ``make``.
      numbers: the trials.
      limit_s: time limit of a trial. The first trial in a process has a minute more, for imports.
    """
    context = multiprocessing.get_context("spawn")
    position = numbers.start
    while position < numbers.stop:
        # A pipe, because results that the process has sent survive its crash.
        results, sender = context.Pipe(duplex=False)
        rest = range(position, numbers.stop)
        worker = context.Process(target=_work, args=(make, arguments, rest, sender), daemon=True)
        worker.start()
        sender.close()  # so that the pipe closes when the process ends
        patience = limit_s + _IMPORT_S
        while position < numbers.stop:
            reason = ""
            try:
                if results.poll(patience):
                    yield results.recv()
                else:
                    reason = f"hang: it took more than {limit_s:g} s"
            except EOFError:
                worker.join()
                reason = f"crash: the process ended with code {worker.exitcode}"
            position, patience = position + 1, limit_s
            if reason:
                yield Ended(position - 1, None, reason)
                break
        worker.kill()
        worker.join()
        results.close()


def _work(
    make: Callable[..., Callable[[int], Any]], arguments: tuple[Any, ...], numbers: range, results: Any
) -> None:
    trial = make(*arguments)
    for number in numbers:
        results.send(Ended(number, trial(number)))
