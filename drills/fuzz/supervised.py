"""Numbered trials in a process of their own: a crash or a hang of one is a result, not the end of all."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_IMPORT_S = 60.0
"""What the first trial of a process has more than the others."""


class Ended(NamedTuple):
    """How trial ``number`` ended: what it returned, or ``None`` and why it did not."""

    number: int
    result: Any
    reason: str = ""


def supervised(
    make: Callable[..., Callable[[int], Any]],
    arguments: tuple[Any, ...],
    numbers: range,
    *,
    limit_s: float,
) -> Iterator[Ended]:
    """``make(*arguments)(number)`` for all ``numbers``, in order.

    A trial that crashes its process or takes longer than ``limit_s`` ends with a reason; the trials after
    it go on in a new process.

    Args:
      make: builds the trial in the process that runs it. A module's function, with ``arguments`` picklable.
      arguments: for ``make``.
      numbers: the trials.
      limit_s: for one trial; the first one in a process has a minute more, for imports.
    """
    context = multiprocessing.get_context("spawn")
    position = numbers.start
    while position < numbers.stop:
        # A pipe, into which the trials' process itself writes: what was sent outlives a crash.
        results, sender = context.Pipe(duplex=False)
        rest = range(position, numbers.stop)
        worker = context.Process(target=_work, args=(make, arguments, rest, sender), daemon=True)
        worker.start()
        sender.close()  # so that the end of the process is the end of the pipe
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
    make: Callable[..., Callable[[int], Any]],
    arguments: tuple[Any, ...],
    numbers: range,
    results: Any,
) -> None:
    trial = make(*arguments)
    for number in numbers:
        results.send(Ended(number, trial(number)))
