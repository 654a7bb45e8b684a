"""The thread by which a launcher talks with those of the other machines, through a store on machine 0.

Every launcher writes its record again and again, and reads the others'. A thread does it, because a machine
that is cut off makes calls of the store wait for longer than anybody should, and because a launcher that is
busy must not look like one that has gone.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, NamedTuple

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from shufflenet_fn.distributed.failures import Failure
from shufflenet_fn.distributed.nodes import Nodes
from shufflenet_fn.distributed.records import Part, Record, decoded, loss_of
from shufflenet_fn_backends.support.errors import UsageError, UserError

_EVERY_S: Final = 0.2
_OFTEN: Final = 16
"""Of more machines than so many, each talks more seldom: all of it goes through machine 0."""

_CLAIMED_S: Final = 4.0
_RETRY_S: Final = 0.25
_TRY_S: Final = 5.0
_ANSWERS_S: Final = 10.0
_PREFIX: Final = "machines"
_RUN: Final = "run"
_ROUND: Final = "round"


class Round(NamedTuple):
    """``run`` is another with every start of machine 0's launcher; ``attempt`` counts its restarts."""

    run: str
    attempt: int

    def key(self, number: int) -> str:
        return f"{self.run}/{self.attempt}/{number}"


class Heard(NamedTuple):
    """What was last read: of ``round``, the others' records, and when each was last another one."""

    round: Round | None
    records: Mapping[int, Record]
    changed: Mapping[int, float]
    when: float


class Talk(threading.Thread):
    """A connection of one launcher. Attributes are replaced whole, so that any thread may read them.

    Args:
        nodes: the machines; on number 0 the store is opened.
        own: the first words of this launcher.
        deadline: by ``time.monotonic``, until when to try to reach machine 0.
        after: a round that this launcher has already been in, and does not join again.

    Attributes:
        own: what to tell; replaced by the launcher. Its ``beat`` counts by itself.
        order: on machine 0, the round to open.
        joining: on the others, whether to join the next one.
        joined: the last round that was opened or joined.
        heard: what the others said in the round that was last seen.
        trouble: what has ended the conversation; ``None`` while it goes on.
        told: ``own`` as it was last written.
    """

    def __init__(
        self, nodes: Nodes, own: Record, *, deadline: float, after: Round | None = None
    ) -> None:
        super().__init__(name="shufflenet-fn machines", daemon=True)
        self._nodes, self._deadline, self._after = nodes, deadline, after
        self._beat = 0
        self._stopped = threading.Event()
        self.own = own
        self.order: Round | None = None
        self.joining = True
        self.joined: Round | None = None
        self.told: Record | None = None
        self.heard = Heard(None, {}, {}, time.monotonic())
        self.trouble: Exception | None = None
        # Opened here, so that a port that is taken is found out before anything else is done.
        self._server = _serve(nodes) if nodes.rank == 0 else None

    def stop(self) -> None:
        """Talk no more. What is under way may still wait for an answer."""
        self._stopped.set()

    def run(self) -> None:
        try:
            store, every_s = self._connect(), _EVERY_S * max(1.0, self._nodes.num_nodes / _OFTEN)
            while not self._stopped.is_set():
                self._exchange(store)
                self._stopped.wait(every_s)
        except Exception as error:
            self.trouble = error

    def _connect(self) -> Store:
        if self._server is None:
            return self._client(self._deadline)
        run, store = uuid.uuid4().hex, PrefixStore(_PREFIX, self._server)
        store.set(_RUN, run)
        try:
            found = self._client(min(self._deadline, time.monotonic() + _ANSWERS_S))
        except UserError as error:
            raise UsageError(
                f"this machine has --node-rank 0, but cannot be reached at {self._nodes.endpoint}, where "
                "--rdzv-endpoint has the others come. Name an address of this machine there."
            ) from error
        if found.get(_RUN).decode() != run:
            raise UsageError(
                f"--node-rank 0 was given on two machines: another one answers at {self._nodes.endpoint}. "
                "Give each machine a number of its own, and 0 to the one that --rdzv-endpoint names."
            )
        return store

    def _client(self, deadline: float) -> Store:
        """Connect as soon as somebody answers: machine 0 may start last, or its name not be known yet."""
        host, port = self._nodes.host_and_port
        while True:
            left = deadline - time.monotonic()
            try:
                # Asked first, because the store's own attempts do not tell why they fail.
                # A try that goes unanswered is repeated ever more seldom: better a new one.
                socket.create_connection((host, port), timeout=min(max(0.1, left), _TRY_S)).close()
            except OSError as error:
                if self._stopped.is_set() or time.monotonic() > deadline:
                    raise UserError(
                        f"machine 0 did not answer at {host}:{port} within {self._nodes.join_timeout_s:g} s "
                        f"(--join-timeout): {error.strerror or error}. Start the same command with "
                        "--node-rank 0 on the machine that --rdzv-endpoint names, and see that no firewall "
                        "closes that port."
                    ) from error
                self._stopped.wait(_RETRY_S)
                continue
            store = TCPStore(
                host,
                port,
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=max(_ANSWERS_S, left)),
            )
            return PrefixStore(_PREFIX, store)

    def _exchange(self, store: Store) -> None:
        if self._nodes.rank == 0:
            if self.order is not None and self.order != self.joined:
                store.set(_ROUND, json.dumps(self.order))
                self._enter(self.order)
        elif self.joining and store.check([_ROUND]):
            opened = Round(*json.loads(store.get(_ROUND)))
            if opened not in (self._after, self.joined):
                self._join(store, opened)
        current = self.heard.round
        if current is None:
            return
        own = self.own
        self._beat += 1
        store.set(current.key(self._nodes.rank), own._replace(beat=self._beat).encoded())
        self.told = own
        others = [n for n in range(self._nodes.num_nodes) if n != self._nodes.rank]
        there = [n for n in others if n in self.heard.records or store.check([current.key(n)])]
        texts = store.multi_get([current.key(n) for n in there]) if there else []
        now, before = time.monotonic(), self.heard
        records = dict(zip(there, map(decoded, texts), strict=True))
        changed = {
            n: before.changed[n] if before.records.get(n) == record else now
            for n, record in records.items()
        }
        self.heard = Heard(current, records, changed, now)

    def _enter(self, opened: Round) -> None:
        self.own = self.own._replace(part=Part.RUNNING, failure=None)
        self.heard = Heard(opened, {}, {}, time.monotonic())
        self.joining, self.joined = False, opened

    def _join(self, store: Store, opened: Round) -> None:
        """Take this machine's number in a round; where a launcher that has gone had it, end that round."""
        number, key = self._nodes.rank, opened.key(self._nodes.rank)
        if store.add(f"{key}/claims", 1) == 1:
            self._enter(opened)
            return
        seen = decoded(store.get(key))
        self._stopped.wait(_CLAIMED_S)
        now = decoded(store.get(key))
        if now.beat != seen.beat:
            raise UsageError(
                f"--node-rank {number} was given twice: a command on {now.host} is machine {number} "
                f"already. Give each of the {self._nodes.num_nodes} machines a number of its own."
            )
        self._enter(opened)
        self.own = self.own._replace(part=Part.AGAIN, failure=self._came_back())
        self.joining, self.joined, self._after = True, None, opened

    def _came_back(self) -> Failure:
        number = self._nodes.rank
        message = f"machine {number} ({self.own.host}) went away and was started again"
        return loss_of(message, number, self.own.processes)


def _serve(nodes: Nodes) -> TCPStore:
    host, port = nodes.host_and_port
    try:
        return TCPStore(
            "localhost",
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=nodes.join_timeout_s),
        )
    except Exception as error:
        if "EADDRINUSE" not in str(error) and "in use" not in str(error):
            raise
        raise UsageError(
            f"port {port} of this machine, where --rdzv-endpoint {host}:{port} has the others come, is in "
            "use: by another run, or by a second command with --node-rank 0. End that, or give all machines "
            "another port."
        ) from error
