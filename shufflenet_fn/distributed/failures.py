"""Which failure of a run came first, in one line."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from shufflenet_fn_backends.known_errors import explain, telling_line
from shufflenet_fn_backends.support.errors import UserError


class Failure(NamedTuple):
    """Why the ranks of a run were stopped.

    ``message`` is one line; ``traceback`` is of a bug. ``restartable``: a restart may help, unlike after an
    error that the user has to fix.
    """

    rank: int
    local_rank: int
    message: str
    exit_code: int
    restartable: bool
    traceback: str | None = None


class RankFailed(UserError):
    """Raised when a rank ended with an error; has that rank's exit code."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(failures[-1].message)
        self.failures = tuple(failures)
        self.exit_code = failures[-1].exit_code  # type: ignore[misc]  # a class default, per instance

    @property
    def failure(self) -> Failure:
        """The last failure. A restart followed each earlier one."""
        return self.failures[-1]


class Death(NamedTuple):
    """The end of a rank's process. ``code``: its exit code, or minus the signal that ended it."""

    rank: int
    local_rank: int
    step: int | None
    code: int


def report_of(error: Exception, rank: int, local_rank: int, step: int | None) -> dict[str, Any]:
    """Return a rank's report of the error that ends it."""
    report: dict[str, Any] = {
        "rank": rank,
        "local_rank": local_rank,
        "step": step,
        "time": time.time(),
        "message": str(error) if isinstance(error, UserError) else repr(error),
    }
    if isinstance(error, UserError):
        report.update(exit_code=error.exit_code, restartable=error.restartable)
        return report
    report["traceback"] = traceback.format_exc()
    known = explain(repr(error))
    if known is not None:
        report["known"] = f"{telling_line(str(error) or repr(error))}: {known}"
    return report


def first_failure(reports: Sequence[dict[str, Any]], deaths: Sequence[Death], where: str = "") -> Failure:
    """Return the first failure: a user error, a death by signal, or a bug with its traceback, in this order.

    Errors are not simply ordered by time, because ranks whose peer is gone fail in their collective, too.
    ``where``: the machine in words, if there are several.
    """
    in_time = sorted(reports, key=lambda report: float(report["time"]))
    for report in in_time:
        if "exit_code" in report:
            step = "" if report["step"] is None else f", step {report['step']}"
            message = f"{report['message']} (rank {report['rank']}{where}{step})"
            ids = report["rank"], report["local_rank"]
            return Failure(*ids, message, report["exit_code"], report["restartable"])
    for death in deaths:
        if death.code < 0:
            names = {number.value: number.name for number in signal.Signals}
            name = names.get(-death.code, f"signal {-death.code}")
            hint = ", as the kernel does when memory runs out (see dmesg)" if name == "SIGKILL" else ""
            text = f"{where} was killed by {name}{_at(death.step)}{hint}."
            return _failure(death.rank, death.local_rank, text)
    for report in in_time:
        rank, local_rank, at = report["rank"], report["local_rank"], _at(report["step"])
        if "known" in report:
            return _failure(rank, local_rank, f"{where}{at}: {report['known']}")
        text = f"{where} failed with {report['message']}{at}; its traceback is above."
        return _failure(rank, local_rank, text, report["traceback"])
    death = deaths[0]
    text = f"{where} ended with exit code {death.code}{_at(death.step)}."
    return _failure(death.rank, death.local_rank, text)


def hang_failure(rank: int, local_rank: int, step: int | None, text: str, where: str = "") -> Failure:
    """Return the failure of a rank that hangs as ``text`` describes."""
    return _failure(rank, local_rank, f"{where}{_at(step)} {text}.")


def _failure(rank: int, local_rank: int, text: str, traceback: str | None = None) -> Failure:
    message = f"rank {rank}{text} The other ranks were stopped."
    return Failure(rank, local_rank, message, exit_code=1, restartable=True, traceback=traceback)


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"
