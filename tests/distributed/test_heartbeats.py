"""Heartbeats, the rank that hangs, and which failure was first."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from shufflenet_fn.distributed.failures import Death, first_failure, report_of
from shufflenet_fn.distributed.heartbeats import (
    Heartbeat,
    HeartbeatTable,
    Phase,
    describe_hang,
    hanging_rank,
    open_slot,
    process_state,
)
from shufflenet_fn.errors import UsageError

COMPUTING, WAITING = Phase.COMPUTING, Phase.WAITING


@pytest.mark.parametrize(
    ("beats", "hangs"),
    [
        ([(7, WAITING, 99.0), (7, COMPUTING, 99.0)], None),
        ([(7, WAITING, 90.0), (7, COMPUTING, 90.0)], 1),
        # The one that waits is late first; the one to blame is not late yet.
        ([(7, WAITING, 90.0), (7, COMPUTING, 96.0)], None),
        ([(7, COMPUTING, 90.0), (9, COMPUTING, 90.0)], 0),
        ([(9, WAITING, 90.0), (7, WAITING, 90.0), (8, WAITING, 90.0)], 1),
        ([(9, WAITING, 90.0), (9, WAITING, 99.0)], None),
        ([(0, Phase.STARTING, 10.0), (0, Phase.STARTING, 20.0)], None),
        ([(0, Phase.STARTING, -3000.0), (0, Phase.STARTING, 90.0)], 0),
        ([(9, Phase.ENDED, 10.0), (9, Phase.SAVING, 90.0)], 1),
        ([(9, Phase.ENDED, 10.0), (9, Phase.ENDED, 10.0)], None),
        ([(9, Phase.EVALUATING, 90.0), (9, WAITING, 90.0)], 0),
    ],
)
def test_hanging_rank(beats: list[tuple[Any, ...]], hangs: int | None) -> None:
    assert hanging_rank([Heartbeat(*beat) for beat in beats], 100.0, 5.0, ["S"] * len(beats)) == hangs


def test_stopped_rank_is_blamed_if_all_wait() -> None:
    beats = [Heartbeat(7, WAITING, 90.0)] * 3
    assert hanging_rank(beats, 100.0, 5.0, ["S", "T", "S"]) == 1
    text = describe_hang(beats[1], 100.0, 5.0, "T")
    assert "no progress for 10 s (--hang-timeout 5)" in text and "SIGSTOP" in text


def test_process_state() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while process_state(child.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process_state(child.pid) == "T"
        child.kill()
    assert process_state(child.pid) == "?"


def test_table_is_shared_by_path_without_file() -> None:
    table = HeartbeatTable(3)
    try:
        assert table.path.startswith("/proc/")
        slot = open_slot(table.path, 2)
        slot.beat(41, Phase.EVALUATING)
        assert table.heartbeats()[2][:2] == (41, Phase.EVALUATING)
        assert [beat.phase for beat in table.heartbeats()[:2]] == [Phase.STARTING] * 2
        slot.request_stop(signal.SIGTERM)
        assert table.stop_signal == open_slot(table.path, 0).stop_signal == signal.SIGTERM
        slot.report({"rank": 5, "message": "é" * 300_000, "time": 1.0})
        (report,) = table.reports()
        assert report["rank"] == 5 and set(report["message"]) == {"é"}
        table.clear()
        assert not table.reports() and table.heartbeats()[2].phase is Phase.STARTING
        assert table.stop_signal == signal.SIGTERM
    finally:
        table.close()
    assert not os.path.exists(table.path)


_BEATS_WITHOUT_PAUSE = """
import sys
from shufflenet_fn.distributed.heartbeats import Phase, open_slot
slot, step = open_slot(sys.argv[1], 0), 0
while True:
    step += 1
    slot.beat(step, Phase(1 + step % 5))
"""


def test_heartbeat_is_never_read_half_written() -> None:
    # Read so, a rank at work seems to have stood still since the machine was started, and is killed.
    table = HeartbeatTable(1)
    with subprocess.Popen([sys.executable, "-c", _BEATS_WITHOUT_PAUSE, table.path]) as writer:
        try:
            deadline = time.monotonic() + 60
            # Its phase is written after its step.
            while table.heartbeats()[0].phase is Phase.STARTING and time.monotonic() < deadline:
                time.sleep(0.01)
            before = table.heartbeats()[0]
            assert before.step
            for _ in range(200_000):
                beat = table.heartbeats()[0]
                assert beat.step >= before.step and beat.time >= before.time, (before, beat)
                assert beat.phase is not Phase.STARTING
                before = beat
        finally:
            writer.kill()
    assert before.step > 1000
    table.close()


def test_incomplete_report_is_none() -> None:
    table = HeartbeatTable(1)
    table.slot(0).report({"rank": 0, "message": "lost"})
    assert table.reports()
    # The length is there already, the words are not.
    with open(table.path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        begin = memory.find(b'{"rank"')
        memory[begin] = 0
    assert table.reports() == []
    table.close()


def bug(rank: int, when: float, step: int | None = None) -> dict[str, Any]:
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError as error:
        return {**report_of(error, rank, rank, step), "time": when}


def test_first_failure() -> None:
    user = report_of(UsageError("no such folder"), 1, 1, 12)
    killed, echo = Death(2, 2, 12, -signal.SIGKILL), Death(0, 0, 11, 1)
    found = first_failure([bug(0, 1.0), {**user, "time": 2.0}], [killed, echo])
    assert found.message == "no such folder (rank 1, step 12)"
    assert (found.rank, found.exit_code, found.restartable) == (1, 2, False)
    found = first_failure([bug(0, 1.0)], [echo, killed])
    assert found.message.startswith("rank 2 was killed by SIGKILL at step 12, as the kernel does")
    assert found.restartable and "\n" not in found.message
    found = first_failure([bug(0, 2.0), bug(3, 1.0, 8)], [echo])
    assert found.message.startswith("rank 3 failed with ZeroDivisionError('x') at step 8;")
    assert found.traceback is not None and "in bug" in found.traceback
    assert "exit code 1 at step 11" in first_failure([], [echo]).message
    assert "signal 40" in first_failure([], [Death(0, 0, None, -40)]).message
