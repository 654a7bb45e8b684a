"""The launchers of a run's other machines: waiting for them, and finding out together why a round ended."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from typing import Final

from shufflenet_fn.distributed.failures import Cause, Failure
from shufflenet_fn.distributed.nodes import Nodes
from shufflenet_fn.distributed.records import Part, Record, first_of_all, loss_of, unlike
from shufflenet_fn.distributed.talk import Round, Talk
from shufflenet_fn_backends.support.errors import UsageError, UserError

_POLL_S: Final = 0.05
_ANSWERS_S: Final = 1.0
_SILENT_S: Final = 4.0
"""A launcher that is asked something and does not even repeat itself for so long has gone."""

_SETTLED_WITHIN_S: Final = 8.0
_KEPT: Final = 20_000
"""Characters of a traceback that are told."""


class MachineLeft(UserError):
    """Another machine takes no further part, so this one cannot go on."""


class Peers:
    """The other machines, as the launcher of one sees them.

    A round begins with ``meet`` on all machines. It ends when any of them calls ``fail``, which comes to the
    same failure on all that can hear each other; or when all have called ``done``.

    Args:
        nodes: the machines; more than one.
        processes: ranks on this one.
    """

    def __init__(self, nodes: Nodes, processes: int) -> None:
        self._nodes = nodes
        self.host = socket.gethostname()
        self._own = Record(uuid.uuid4().hex, self.host, nodes.num_nodes, processes)
        self._run = uuid.uuid4().hex
        self._before: Round | None = None
        self._talk: Talk | None = None
        self._attempt = -1

    def meet(self, interrupted: Callable[[], None]) -> int:
        """Wait until all machines are there; the number of restarts so far, by machine 0's count.

        ``interrupted`` is called again and again, and may raise.

        Raises:
            MachineLeft: one of them ends instead of coming.
            UsageError: their commands are not of the same run.
            UserError: they did not come in time.
        """
        deadline = time.monotonic() + self._nodes.join_timeout_s
        talk = self._open(deadline)
        if self._nodes.rank == 0:
            self._wait_for_the_old_round(talk, deadline, interrupted)
            self._attempt += 1
            talk.order = Round(self._run, self._attempt)
        else:
            talk.joining = True
        while not self._all_are_there(talk):
            interrupted()
            if talk.trouble is not None:
                if isinstance(talk.trouble, UserError):
                    raise talk.trouble
                talk = self._open(deadline)  # machine 0 was started again, or the connection broke
            # The thread has the same deadline, and knows better what it waits for.
            if time.monotonic() > deadline + _ANSWERS_S:
                raise UserError(self._missing(talk))
            time.sleep(_POLL_S)
        assert talk.joined is not None
        self._before, self._attempt = talk.joined, talk.joined.attempt
        return self._attempt

    def _all_are_there(self, talk: Talk) -> bool:
        heard = talk.heard
        for number, record in heard.records.items():
            if record.part in (Part.OVER, Part.DONE):
                why = "." if record.failure is None else f": {record.failure.message}"
                raise MachineLeft(f"machine {number} ({record.host}) has ended{why}")
        if (reason := unlike(self._own, heard.records)) is not None:
            raise UsageError(reason)
        joined = talk.joined
        return (
            joined is not None
            and joined != self._before
            and heard.round == joined
            and len(heard.records) == self._nodes.num_nodes - 1
        )

    def trouble(self, limit_s: float) -> Failure | None:
        """Why this round has to end, as far as other machines show it; ``None`` as long as nothing does.

        A machine of which nothing was heard for ``limit_s`` seconds is lost; less than what a busy launcher
        may need is not taken for a sign.
        """
        talk, limit_s = self._talking(), max(limit_s, _SILENT_S)
        for record in talk.heard.records.values():
            if record.failure is not None:
                return record.failure
        lost = [*self._ended(talk), *self._lost(talk, limit_s)]
        return min(lost, key=lambda failure: failure.rank, default=None)

    def fail(self, own: Failure | None, seen: Failure | None) -> Failure:
        """Tell the others that this round ends; the reason, the same for all that can hear each other.

        Args:
            own: what this machine's ranks have failed from, if they have.
            seen: what ``trouble`` said, if it was that.
        """
        talk = self._talking()
        if own is not None and own.traceback is not None:
            own = own._replace(traceback=own.traceback[-_KEPT:])
        told = seen if own is None and seen is not None and seen.cause is Cause.LOST else own
        talk.own = talk.own._replace(part=Part.FAILED, failure=told)
        deadline = time.monotonic() + _SETTLED_WITHIN_S
        while True:
            lost = [*self._ended(talk), *self._lost(talk, _SILENT_S)]
            silent = {failure.machine for failure in lost}
            records = talk.heard.records
            running = [n for n, record in records.items() if record.part is Part.RUNNING]
            if silent.issuperset(running) or 0 in silent or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        reason = first_of_all(told, records, lost) or seen
        assert reason is not None
        return reason

    def go_on(self) -> None:
        """Tell the others that this machine starts again with them."""
        self._say(Part.AGAIN)

    def leave(self, failure: Failure | None = None) -> None:
        """Tell the others that this machine takes no further part; any thread or signal handler may."""
        if (talk := self._talk) is not None:
            talk.own = talk.own._replace(part=Part.OVER, failure=failure or talk.own.failure)

    def done(self) -> bool:
        """Tell the others that the ranks of this machine have ended well; whether all have."""
        self._say(Part.DONE)
        return all(
            record.part in (Part.DONE, Part.OVER) and record.failure is None
            for record in self._talking().heard.records.values()
        )

    def close(self) -> None:
        """Take leave. Machine 0, which has the store, waits until the others have."""
        talk = self._talk
        if talk is None:
            return
        deadline = time.monotonic() + _SETTLED_WITHIN_S
        while talk.is_alive() and talk.joined is not None and time.monotonic() < deadline:
            self.leave()
            told = talk.told is not None and talk.told.part is Part.OVER
            silent = {failure.machine for failure in self._lost(talk, _SILENT_S)}
            here = [n for n, r in talk.heard.records.items() if r.part is not Part.OVER]
            if (told and silent.issuperset(here)) if self._nodes.rank == 0 else (told or silent):
                break
            time.sleep(_POLL_S)
        talk.stop()
        talk.join(1.0)
        self._talk = None

    def _talking(self) -> Talk:
        if self._talk is None:
            raise RuntimeError("the machines have not met")
        return self._talk

    def _open(self, deadline: float) -> Talk:
        talk = self._talk
        if talk is not None and self._nodes.rank and self._lost(talk, _SILENT_S, of=0):
            talk.stop()
            talk = None
        if talk is None:
            talk = Talk(self._nodes, self._own, deadline=deadline, after=self._before)
            self._talk = talk
            talk.start()
        return talk

    def _wait_for_the_old_round(
        self, talk: Talk, deadline: float, interrupted: Callable[[], None]
    ) -> None:
        """Until those that are still there have said whether they go on: one may ask its device first."""
        while time.monotonic() < deadline:
            interrupted()
            self._all_are_there(talk)
            silent = {failure.machine for failure in self._lost(talk, _SILENT_S)}
            if all(
                record.part is Part.AGAIN or number in silent
                for number, record in talk.heard.records.items()
            ):
                return
            time.sleep(_POLL_S)

    def _say(self, part: Part) -> None:
        talk = self._talking()
        if talk.own.part is not Part.OVER:
            talk.own = talk.own._replace(part=part)

    def _ended(self, talk: Talk) -> list[Failure]:
        """Machines that have ended and did not say why."""
        return [
            self._without(number, f"machine {number} ({record.host}) has ended")
            for number, record in talk.heard.records.items()
            if record.part is Part.OVER and record.failure is None
        ]

    def _lost(self, talk: Talk, limit_s: float, *, of: int | None = None) -> list[Failure]:
        """Machines of which nothing was heard for ``limit_s``; ``of`` only this one."""
        heard, now = talk.heard, time.monotonic()
        if self._nodes.rank and (talk.trouble is not None or now - heard.when > limit_s):
            # Then nothing can be told of the others.
            return [self._silent(0, str(self._nodes.endpoint), now - heard.when)]
        return [
            self._silent(number, heard.records[number].host, now - changed)
            for number, changed in heard.changed.items()
            if now - changed > limit_s
            and heard.records[number].part not in (Part.DONE, Part.OVER)
            and of in (None, number)
        ]

    def _silent(self, number: int, host: str, seconds: float) -> Failure:
        silence = (
            f"has not answered for {seconds:.0f} s" if seconds >= 1 else "does not answer any more"
        )
        return self._without(
            number,
            f"machine {number} ({host}) {silence}: its command was killed, it is down, or the network "
            "between has failed",
        )

    def _without(self, number: int, message: str) -> Failure:
        return loss_of(message, number, self._own.processes)

    def _missing(self, talk: Talk) -> str:
        there = {self._nodes.rank, *talk.heard.records}
        numbers = [str(n) for n in range(self._nodes.num_nodes) if n not in there]
        waited = f"within {self._nodes.join_timeout_s:g} s (--join-timeout)"
        if talk.joined in (None, self._before):
            return f"machine 0 at {self._nodes.endpoint} did not let this one in {waited}."
        return (
            f"machine{'s' * (len(numbers) > 1)} {', '.join(numbers)} of {self._nodes.num_nodes} did not "
            f"come to {self._nodes.endpoint} {waited}. Start the same command on every machine, each with "
            "its own --node-rank, and see that no firewall closes that port."
        )
