"""Peers that die, hang, do something else or come with the wrong arguments: named, in bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hccl.ranks import (
    NOT_SUPPORTED,
    PARAMETER,
    REMOTE,
    SOON_S,
    SUSPENDING,
    TIMEOUT,
    Ranks,
    bounded,
    ranks,
)
from tests.hccl.worker import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, INT16, MAX, PRODUCT, SUM, UINT8


@pytest.fixture
def three(hccl_library: Path) -> Iterator[Ranks]:
    with ranks(hccl_library, 3) as started:
        started.join()
        yield started


def all_reduce(world: Ranks, of: list[int], **settings: object) -> None:
    """Begin a collective on some ranks, without waiting for its end."""
    for rank in of:
        world.tell(rank, "collective", **{"function": "all_reduce", "dtype": FLOAT32, "count": 9, **settings})


def test_first_failed_rank_is_named(three: Ranks) -> None:
    all_reduce(three, [0, 2])
    dead = three.processes[1].pid
    three.kill(1)
    assert three.answer(0) is not None
    three.kill(0)
    answer = three.answer(2)
    assert answer is not None and f"rank 1 (process {dead})" in answer["text"]
    all_reduce(three, [2])
    answer = three.answer(2)
    assert answer is not None and answer["code"] == REMOTE and "failed before" in answer["text"]


def test_peer_that_died_after_its_part_is_ignored(three: Ranks) -> None:
    """The last collective of a rank that ends: the others still read what it left."""
    for rank in (1, 2):
        three.tell(rank, "collective", function="send", dtype=FLOAT32, count=5, root=1)
    assert three.answer(2) == {"code": 0, "text": "", "wrong": ""}
    all_reduce(three, [], count=1)
    assert three.ask(0, "collective", function="send", dtype=FLOAT32, count=5, root=1)["code"] == 0
    three.kill(0)
    assert three.answer(1) == {"code": 0, "text": "", "wrong": ""}


def test_a_dead_sender_is_named(three: Ranks) -> None:
    three.tell(1, "collective", function="send", dtype=FLOAT32, count=5, root=1)
    with bounded(SOON_S):
        three.kill(0)
        answer = three.answer(1)
    assert answer is not None and answer["code"] == REMOTE
    assert "waits in HcclRecv from rank 0 to rank 1" in answer["text"]


def test_peer_that_left_differs_from_one_that_died(three: Ranks) -> None:
    all_reduce(three, [0, 2])
    assert three.ask(1, "on", function="destroy")["code"] == 0
    answer = three.answer(0)
    assert answer is not None and answer["code"] == REMOTE and "has left it" in answer["text"]


def test_hung_peer_is_named_after_the_timeout(hccl_library: Path) -> None:
    with ranks(hccl_library, 3, HCCL_EXEC_TIMEOUT="2") as world:
        world.join()
        world.ask(1, "setting", name="fault", values=["hang", 1])
        with bounded(2.0 + SOON_S):
            for rank in range(3):
                world.tell(rank, "on", function="barrier")
            for rank in (0, 2):
                answer = world.answer(rank)
                assert answer is not None and answer["code"] == TIMEOUT
                assert answer["text"] == (
                    f"EI0002: HcclBarrier (collective 1) on rank {rank} of communicator world timed out "
                    f"after 2 s (HCCL_EXEC_TIMEOUT): rank 1 (process {world.processes[1].pid}) still runs "
                    "but did not come to it"
                )
        world.kill(0)
        world.kill(2)
        # Long enough for a launcher to end it, and not for ever.
        time.sleep(1.0)
        assert world.processes[1].poll() is None
        answer = world.answer(1)
        assert answer is not None and answer["code"] == TIMEOUT and "hung" in answer["text"]


def test_communicator_timeout_overrides_the_environment(hccl_library: Path) -> None:
    with ranks(hccl_library, 2, HCCL_EXEC_TIMEOUT="1000") as world:
        world.join(exec_timeout=1)
        with bounded(1.0 + SOON_S):
            answer = world.ask(0, "on", function="barrier")
        assert answer["code"] == TIMEOUT


@pytest.mark.parametrize(
    ("second", "differs", "calls"),
    [
        ({"count": 10}, "count", "HcclAllReduce(float32 x 10, sum)"),
        ({"count": 0}, "count", "HcclAllReduce(float32, sum)"),
        ({"dtype": FLOAT16}, "dtype", "HcclAllReduce(float16 x 9, sum)"),
        ({"op": MAX}, "reduction", "HcclAllReduce(float32 x 9, max)"),
        ({"function": "all_gather"}, "operation", "HcclAllGather(float32 x 9)"),
        ({"function": "reduce", "root": 1}, "operation", "HcclReduce(float32 x 9, sum, root 1)"),
    ],
)
def test_mismatched_call_is_named_by_all_ranks(
    three: Ranks, second: dict[str, object], differs: str, calls: str
) -> None:
    all_reduce(three, [0, 1])
    all_reduce(three, [2], **second)
    pids = [process.pid for process in three.processes]
    for rank in range(3):
        answer = three.answer(rank)
        assert answer is not None and answer["code"] == PARAMETER
        assert answer["text"] == (
            "EI0005: the ranks of communicator world do not call the same in their collective 1: the "
            f"{differs} differs, HcclAllReduce(float32 x 9, sum) on rank 0 (process {pids[0]}) and {calls} "
            f"on rank 2 (process {pids[2]})"
        )


def test_different_roots_are_named(three: Ranks) -> None:
    for rank in range(3):
        three.tell(rank, "collective", function="broadcast", dtype=UINT8, count=4, root=rank // 2)
    for rank in range(3):
        answer = three.answer(rank)
        assert answer is not None and answer["code"] == PARAMETER and "the root differs" in answer["text"]


def test_counts_that_do_not_fit_are_named(three: Ranks) -> None:
    for rank in range(3):
        three.tell(rank, "collective", function="all_to_all_v", dtype=UINT8, count=40 if rank == 1 else 90)
    for rank in range(3):
        answer = three.answer(rank)
        assert answer is not None and answer["code"] == PARAMETER
        assert re.search(r"rank 0 .* sends \d+ elements to rank 1 .*, which expects \d+", answer["text"])


def test_a_message_of_another_size_is_named(three: Ranks) -> None:
    assert three.ask(0, "collective", function="send", dtype=FLOAT32, count=5, root=1)["code"] == 0
    answer = three.ask(1, "collective", function="send", dtype=FLOAT32, count=6, root=1)
    assert answer["code"] == PARAMETER
    assert "sent are 5 elements of float32, expected 6 of float32" in answer["text"]


def test_what_the_chip_refuses_is_refused(three: Ranks) -> None:
    def refused(function: str, **settings: object) -> str:
        """On one rank, before it waits for any other."""
        answer = three.ask(0, "collective", function=function, count=4, **settings)
        assert answer["code"] == NOT_SUPPORTED
        return str(answer["text"])

    text = refused("all_reduce", dtype=FLOAT64, op=SUM)
    assert text.startswith(
        "EI0003: HcclAllReduce with sum does not take float64 on Ascend910B1; it takes int8,"
    )
    # The communicator has failed with the first; each of these has one of its own.
    three.join(name="second")
    assert "prod does not take int16" in refused("reduce", comm="second", dtype=INT16, op=PRODUCT)
    # Made before the chip is another: that takes no communicator of three.
    three.join(name="third")
    three.join(name="fourth")
    three.all("setting", name="chip", values=[0, True])
    assert "does not take bfloat16 on Ascend910A" in refused("broadcast", comm="third", dtype=BFLOAT16)
    assert refused("all_reduce", comm="fourth", dtype=INT16, op=SUM).endswith(
        "it takes int8, int32, float16, float32, int64"
    )


def test_a_wrong_root_and_a_wrong_handle(three: Ranks) -> None:
    answer = three.ask(0, "collective", function="broadcast", dtype=UINT8, count=4, root=3)
    assert answer["code"] == PARAMETER and "root 3 is not one of the 3 ranks" in answer["text"]
    assert three.ask(1, "on", function="destroy")["code"] == 0
    answer = three.ask(1, "on", function="destroy")
    assert answer["code"] == PARAMETER and "was it destroyed?" in answer["text"]


def test_a_suspended_communicator_can_go_on(three: Ranks) -> None:
    three.all("on", function="suspend", values=[True])
    answers = three.all("on", function="barrier")
    assert [answer and answer["code"] for answer in answers] == [SUSPENDING] * 3
    three.all("on", function="suspend", values=[False])
    answers = three.all("on", function="barrier")
    assert [answer and answer["code"] for answer in answers] == [0] * 3


def test_an_asynchronous_error_is_kept_for_who_asks(three: Ranks) -> None:
    three.ask(1, "setting", name="fault", values=["async", 1])
    assert [answer and answer["code"] for answer in three.all("on", function="barrier")] == [0] * 3
    codes = [answer and answer["code"] for answer in three.all("on", function="asynchronous_error")]
    assert codes == [0, REMOTE, 0]


def test_float16_overflow_is_flagged_on_saturating_chips(hccl_library: Path) -> None:
    with ranks(hccl_library, 2) as world:
        world.join()
        for saturates, largest in ((False, "inf"), (True, "65504.0")):
            world.all("setting", name="chip", values=[1, saturates])
            for values, expected in (([1.0, 60000.0], ["2.0", largest]), ([1.0, 2.0], ["2.0", "4.0"])):
                answers = world.all("sum", values=values)
                assert [answer and answer["values"] for answer in answers] == [expected] * 2
                flags = [answer and answer["overflow"] for answer in world.all("overflow")]
                # The rank that reduced the element, which is one.
                assert flags.count(True) == (1 if values[1] == 60000.0 else 0)
