"""Launchers of several machines, in one process: they meet, agree on why a round ended, and are missed."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from shufflenet_fn.distributed.failures import Cause, Failure
from shufflenet_fn.distributed.meeting import Meeting, StoppedWaiting
from shufflenet_fn.distributed.nodes import Nodes
from shufflenet_fn.distributed.peers import MachineLeft, Peers
from shufflenet_fn.distributed.records import Part, Record, decoded, first_of_all, unlike
from shufflenet_fn.errors import UsageError, UserError

BOUND_S = 60.0

Make = Callable[..., Peers]


def go_on() -> None:
    """Nothing interrupts."""


def failure(cause: Cause, machine: int, message: str = "it failed") -> Failure:
    return Failure(machine, 0, message, 1, True, None, cause, machine)


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes launchers of one run that meet on a free port; all have taken leave in the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    made: list[Peers] = []

    def peers(rank: int, *, nodes: int = 2, processes: int = 1, join_s: float = 20.0) -> Peers:
        made.append(Peers(Nodes(nodes, rank, endpoint, join_s), processes))
        return made[-1]

    yield peers
    with ThreadPoolExecutor(len(made) or 1) as pool:
        list(pool.map(Peers.close, made))
    assert not [t for t in threading.enumerate() if t.name == "shufflenet-fn machines"]


@pytest.fixture
def at_once() -> Iterator[Callable[..., Future[object]]]:
    with ExitStack() as stack:
        yield stack.enter_context(ThreadPoolExecutor(4)).submit


Submit = Callable[..., Future[object]]


def meet(submit: Submit, *all_peers: Peers) -> list[object]:
    meetings = [submit(peers.meet, go_on) for peers in all_peers]
    return [meeting.result(BOUND_S) for meeting in meetings]


def wait_for_trouble(peers: Peers, limit_s: float = 60.0) -> Failure:
    deadline = time.monotonic() + BOUND_S
    while (found := peers.trouble(limit_s)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_they_meet_agree_on_the_cause_and_meet_again(make: Make, at_once: Submit) -> None:
    first, second = make(0), make(1)
    assert meet(at_once, first, second) == [0, 0]
    assert first.trouble(60.0) is None
    # What machine 0 sees is only what machine 1's failure looks like there, and it sees it first.
    echo = failure(Cause.ECHO, 0, "connection reset")
    agreed = at_once(first.fail, echo, None)
    assert wait_for_trouble(second) == echo
    killed = failure(Cause.KILLED, 1, "rank 1 was killed")
    assert second.fail(killed, echo) == killed
    assert agreed.result(BOUND_S) == killed
    first.go_on()
    second.go_on()
    assert meet(at_once, first, second) == [1, 1]
    assert first.trouble(60.0) is None and second.trouble(60.0) is None
    assert not first.done()
    deadline = time.monotonic() + BOUND_S
    while not (second.done() and first.done()):
        assert time.monotonic() < deadline


def test_one_that_does_not_go_on_ends_the_others_with_its_reason(
    make: Make, at_once: Submit
) -> None:
    first, second = make(0), make(1)
    meet(at_once, first, second)
    reason = failure(Cause.USER, 1, "the disk is full")
    agreed = at_once(second.fail, reason, None)
    assert first.fail(None, wait_for_trouble(first)) == agreed.result(BOUND_S) == reason
    first.go_on()
    second.leave(reason)
    with pytest.raises(MachineLeft, match=r"machine 1 \(.*\) has ended: the disk is full"):
        first.meet(go_on)


def test_one_that_falls_silent_is_lost_and_its_successor_lets_all_start_again(
    make: Make, at_once: Submit
) -> None:
    first, gone = make(0), make(1)
    meet(at_once, first, gone)
    assert gone._talk is not None
    gone._talk.stop()  # as SIGKILL does
    silent = wait_for_trouble(first, 1.5)
    assert silent.message.startswith("machine 1 (") and "has not answered for" in silent.message
    assert (silent.cause, silent.machine, silent.restartable) == (Cause.LOST, 1, True)
    successor = make(1)
    coming = at_once(successor.meet, go_on)
    # It is not let into the round that its predecessor was in; that one ends.
    assert first.fail(None, silent).machine == 1
    first.go_on()
    assert first.meet(go_on) == coming.result(BOUND_S) == 1


def test_a_number_given_twice(make: Make, at_once: Submit) -> None:
    first, second, again = make(0), make(1), make(1)
    meet(at_once, first, second)
    with pytest.raises(UsageError, match=r"--node-rank 1 was given twice: a command on .* is mach"):
        again.meet(go_on)
    with pytest.raises(UsageError, match=r"in use: by another run, or by a second .*node-rank 0"):
        make(0).meet(go_on)
    assert first.trouble(60.0) is None


def test_machines_that_do_not_come(make: Make, at_once: Submit) -> None:
    with pytest.raises(UserError, match=r"machine 0 did not answer at 127.0.0.1:\d+ within 1 s"):
        make(1, join_s=1.0).meet(go_on)
    waiting = at_once(make(1, nodes=3, join_s=20.0).meet, go_on)
    with pytest.raises(
        UserError, match=r"machines? .*2 of 3 did not come to .* \(--join-timeout\)"
    ):
        first = make(0, nodes=3, join_s=3.0)
        try:
            first.meet(go_on)
        finally:
            first.leave()
    with pytest.raises(MachineLeft, match=r"machine 0 \(.*\) has ended"):
        waiting.result(BOUND_S)


def test_commands_of_different_runs(make: Make, at_once: Submit) -> None:
    meetings = [at_once(make(0).meet, go_on), at_once(make(1, processes=2).meet, go_on)]
    for meeting, there, here in zip(meetings, (2, 1), (1, 2), strict=True):
        with pytest.raises(UsageError, match=f"--devices {there}, this one with --devices {here}"):
            meeting.result(BOUND_S)


def test_a_signal_ends_the_waiting_and_the_others_are_told(make: Make, at_once: Submit) -> None:
    first, second = make(0, nodes=3), make(1, nodes=3)
    waiting = at_once(second.meet, go_on)
    deadline = time.monotonic() + BOUND_S

    def stop_signal() -> int:
        # As soon as both are there; the third never comes.
        assert time.monotonic() < deadline
        talk = first._talk
        return signal.SIGTERM if talk is not None and talk.heard.records else 0

    with pytest.raises(StoppedWaiting, match="stopped by SIGTERM while waiting for the oth") as end:
        Meeting(Nodes(3, 0), first, stop_signal).next_rendezvous()
    assert end.value.exit_code == 75
    with pytest.raises(MachineLeft, match=r"machine 0 \(.*\) has ended: stopped by SIGTERM"):
        waiting.result(BOUND_S)


def test_records_survive_the_way() -> None:
    record = Record("a", "host", 2, 1, 7, Part.FAILED, failure(Cause.HANG, 1))
    assert decoded(record.encoded()) == record
    assert decoded(record._replace(failure=None).encoded()).failure is None
    assert unlike(record, {1: record}) is None
    assert "--nnodes 3" in str(unlike(record, {1: record._replace(nodes=3)}))


@pytest.mark.parametrize(
    ("own", "told", "lost", "blamed"),
    [
        (Cause.ECHO, Cause.KILLED, False, 1),
        (Cause.ECHO, Cause.ECHO, False, 0),
        (Cause.ECHO, None, True, 2),
        (Cause.ECHO, Cause.HANG, True, 1),
        (Cause.USER, Cause.KILLED, True, 0),
        (None, Cause.BUG, False, 1),
        (None, None, False, None),
    ],
)
def test_who_is_to_blame(
    own: Cause | None, told: Cause | None, lost: bool, blamed: int | None
) -> None:
    record = Record("a", "host", 3, 1, failure=None if told is None else failure(told, 1))
    found = first_of_all(
        None if own is None else failure(own, 0),
        {1: record, 2: record._replace(failure=None)},
        [failure(Cause.LOST, 2)] if lost else [],
    )
    assert (found.machine if found else None) == blamed
