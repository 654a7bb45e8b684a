"""Which failure of a run came first, in one line."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

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
            return _user_error(report, where)
    for death in deaths:
        if death.code < 0:
            return _killed(death, where)
    for report in in_time:
        return _bug(report, where)
    death = deaths[0]
    message = f"rank {death.rank}{where} ended with exit code {death.code}{_at(death.step)}."
    return _of_rank(death.rank, death.local_rank, f"{message} {STOPPED}")


STOPPED: Final = "The other ranks were stopped."


def _of_rank(rank: int, local_rank: int, message: str, traceback: str | None = None) -> Failure:
    return Failure(rank, local_rank, message, exit_code=1, restartable=True, traceback=traceback)


def hang_failure(rank: int, local_rank: int, step: int | None, text: str, where: str = "") -> Failure:
    """Return the failure of a rank that hangs as ``text`` describes."""
    return _of_rank(rank, local_rank, f"rank {rank}{where}{_at(step)} {text}. {STOPPED}")


def _user_error(report: dict[str, Any], where: str) -> Failure:
    step = "" if report["step"] is None else f", step {report['step']}"
    return Failure(
        report["rank"],
        report["local_rank"],
        f"{report['message']} (rank {report['rank']}{where}{step})",
        report["exit_code"],
        report["restartable"],
    )


def _killed(death: Death, where: str) -> Failure:
    try:
        name = signal.Signals(-death.code).name
    except ValueError:  # a real-time signal
        name = f"signal {-death.code}"
    hint = ", as the kernel does when memory runs out (see dmesg)" if name == "SIGKILL" else ""
    message = f"rank {death.rank}{where} was killed by {name}{_at(death.step)}{hint}. {STOPPED}"
    return _of_rank(death.rank, death.local_rank, message)


def _bug(report: dict[str, Any], where: str) -> Failure:
    rank, local_rank, at = report["rank"], report["local_rank"], _at(report["step"])
    if "known" in report:
        message = f"rank {rank}{where}{at}: {report['known']} {STOPPED}"
        return _of_rank(rank, local_rank, message)
    message = f"rank {rank}{where} failed with {report['message']}{at}; its traceback is above. {STOPPED}"
    return _of_rank(rank, local_rank, message, report["traceback"])


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def show_traceback(failure: Failure) -> None:
    """Print the traceback of a bug."""
    if failure.traceback is not None:
        print(failure.traceback, file=sys.stderr, end="", flush=True)
