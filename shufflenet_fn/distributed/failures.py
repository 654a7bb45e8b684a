"""What made a run fail first, in one line."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from shufflenet_fn_backends.errors import UserError
from shufflenet_fn_backends.known_errors import explain, telling_line


class Failure(NamedTuple):
    """Why the ranks of this machine were stopped.

    ``message`` is one line; ``traceback`` is of a bug. ``restartable``: starting again may help, as it
    cannot where the user has to mend something.
    """

    rank: int
    local_rank: int
    message: str
    exit_code: int
    restartable: bool
    traceback: str | None = None


class RankFailed(UserError):
    """A rank ended with an error. Carries that rank's exit code."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(failures[-1].message)
        self.failures = tuple(failures)
        self.exit_code = failures[-1].exit_code  # type: ignore[misc]  # a class default, per instance

    @property
    def failure(self) -> Failure:
        """The last one; those before it were followed by a restart."""
        return self.failures[-1]


class Death(NamedTuple):
    """A rank's process has ended. ``code``: its exit code, or minus the signal that ended it."""

    rank: int
    local_rank: int
    step: int | None
    code: int


def report_of(error: Exception, rank: int, local_rank: int, step: int | None) -> dict[str, Any]:
    """What a rank leaves behind of the error that ends it."""
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


def first_failure(reports: Sequence[dict[str, Any]], deaths: Sequence[Death]) -> Failure:
    """What went wrong first: a user error, a death by signal, a bug with its traceback, in this order.

    Ranks whose peer has gone fail too, in their collective, and say so; that is why errors are not simply
    taken in the order of time.
    """
    in_time = sorted(reports, key=lambda report: float(report["time"]))
    for report in in_time:
        if "exit_code" in report:
            return _user_error(report)
    for death in deaths:
        if death.code < 0:
            return _killed(death)
    for report in in_time:
        return _bug(report)
    death = deaths[0]
    message = f"rank {death.rank} ended with exit code {death.code}{_at(death.step)}."
    return Failure(death.rank, death.local_rank, f"{message} {_STOPPED}", 1, True)


_STOPPED = "The other ranks were stopped."


def _user_error(report: dict[str, Any]) -> Failure:
    step = "" if report["step"] is None else f", step {report['step']}"
    return Failure(
        report["rank"],
        report["local_rank"],
        f"{report['message']} (rank {report['rank']}{step})",
        report["exit_code"],
        report["restartable"],
    )


def _killed(death: Death) -> Failure:
    try:
        name = signal.Signals(-death.code).name
    except ValueError:  # a real-time signal
        name = f"signal {-death.code}"
    hint = ", as the kernel does when memory runs out (see dmesg)" if name == "SIGKILL" else ""
    message = f"rank {death.rank} was killed by {name}{_at(death.step)}{hint}. {_STOPPED}"
    return Failure(death.rank, death.local_rank, message, 1, True)


def _bug(report: dict[str, Any]) -> Failure:
    rank, at = report["rank"], _at(report["step"])
    if "known" in report:
        message = f"rank {rank}{at}: {report['known']} {_STOPPED}"
        return Failure(rank, report["local_rank"], message, 1, True)
    message = f"rank {rank} failed with {report['message']}{at}; its traceback is above. {_STOPPED}"
    return Failure(rank, report["local_rank"], message, 1, True, report["traceback"])


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def show_traceback(failure: Failure) -> None:
    """Print the traceback of a bug, ahead of the line that says which rank it was."""
    if failure.traceback is not None:
        print(failure.traceback, file=sys.stderr, end="", flush=True)
