"""What made a run fail first, in one line."""

from __future__ import annotations

import enum
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from shufflenet_fn_backends.known_errors import explain, telling_line
from shufflenet_fn_backends.support.errors import UserError


class Cause(enum.IntEnum):
    """Kinds of failures. Where several come at once, the lower one is the reason for the others.

    ``ECHO``: only what another rank's failure looks like from here.
    """

    USER = 0
    KILLED = 1
    HANG = 2
    BUG = 3
    LOST = 4
    ECHO = 5


class Failure(NamedTuple):
    """Why the ranks of a run were stopped.

    ``message`` is one line; ``traceback`` is of a bug. ``restartable``: starting again may help, as it
    cannot where the user has to mend something. ``machine``: whose rank it was.
    """

    rank: int
    local_rank: int
    message: str
    exit_code: int
    restartable: bool
    traceback: str | None = None
    cause: Cause = Cause.BUG
    machine: int = 0


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


class Where(NamedTuple):
    """A machine of several, as messages name it; without a ``host``, the only one, which they do not."""

    machine: int = 0
    host: str | None = None

    def __str__(self) -> str:
        return "" if self.host is None else f" on machine {self.machine} ({self.host})"


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
        report["echo"] = known.echo
    return report


def first_failure(
    reports: Sequence[dict[str, Any]], deaths: Sequence[Death], where: Where | None = None
) -> Failure:
    """What went wrong first: a user error, a death by signal, a bug with its traceback, in this order.

    Ranks whose peer has gone fail too, in their collective, and say so; that is why errors are not simply
    taken in the order of time. ``where``: the machine, if there are several.
    """
    where = where or Where()
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
    return _of_rank(death.rank, death.local_rank, f"{message} {STOPPED}", Cause.BUG, where)


STOPPED: Final = "The other ranks were stopped."


def _of_rank(
    rank: int,
    local_rank: int,
    message: str,
    cause: Cause,
    where: Where,
    traceback: str | None = None,
) -> Failure:
    return Failure(
        rank,
        local_rank,
        message,
        exit_code=1,
        restartable=True,
        traceback=traceback,
        cause=cause,
        machine=where.machine,
    )


def hang_failure(
    rank: int, local_rank: int, step: int | None, text: str, where: Where, *, echo: bool
) -> Failure:
    """Of a rank that hangs, as ``text`` tells. ``echo``: it may only wait for another machine's."""
    message = f"rank {rank}{where}{_at(step)} {text}. {STOPPED}"
    return _of_rank(rank, local_rank, message, Cause.ECHO if echo else Cause.HANG, where)


def stopped_failure(number: int, where: Where) -> Failure:
    """Of a machine whose ranks signal ``number`` has ended at once."""
    text = f"a second {signal.Signals(number).name} stopped all ranks{where} at once. {STOPPED}"
    return _of_rank(0, 0, text, Cause.USER, where)._replace(restartable=False)


def _user_error(report: dict[str, Any], where: Where) -> Failure:
    step = "" if report["step"] is None else f", step {report['step']}"
    return Failure(
        report["rank"],
        report["local_rank"],
        f"{report['message']} (rank {report['rank']}{where}{step})",
        report["exit_code"],
        report["restartable"],
        cause=Cause.USER,
        machine=where.machine,
    )


def _killed(death: Death, where: Where) -> Failure:
    try:
        name = signal.Signals(-death.code).name
    except ValueError:  # a real-time signal
        name = f"signal {-death.code}"
    hint = ", as the kernel does when memory runs out (see dmesg)" if name == "SIGKILL" else ""
    message = f"rank {death.rank}{where} was killed by {name}{_at(death.step)}{hint}. {STOPPED}"
    return _of_rank(death.rank, death.local_rank, message, Cause.KILLED, where)


def _bug(report: dict[str, Any], where: Where) -> Failure:
    rank, local_rank, at = report["rank"], report["local_rank"], _at(report["step"])
    if "known" in report:
        message = f"rank {rank}{where}{at}: {report['known']} {STOPPED}"
        cause = Cause.ECHO if report.get("echo") else Cause.BUG
        return _of_rank(rank, local_rank, message, cause, where)
    message = (
        f"rank {rank}{where} failed with {report['message']}{at}; its traceback is above. {STOPPED}"
    )
    return _of_rank(rank, local_rank, message, Cause.BUG, where, report["traceback"])


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def show_traceback(failure: Failure) -> None:
    """Print the traceback of a bug, ahead of the line that says which rank it was."""
    if failure.traceback is not None:
        print(failure.traceback, file=sys.stderr, end="", flush=True)
