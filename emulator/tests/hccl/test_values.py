"""Every collective on 1, 2, 3 and 8 processes: what it computes, against numpy, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hccl.ranks import Ranks, ranks
from tests.hccl.worker import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    MAX,
    MIN,
    PRODUCT,
    SUM,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    WITH_NAN,
)

REDUCIBLE = (INT8, INT16, INT32, INT64, FLOAT16, FLOAT32, BFLOAT16)
MOVABLE = (*REDUCIBLE, UINT8, UINT16, UINT32, UINT64, FLOAT64)
NO_PRODUCT = (INT16, BFLOAT16)
REDUCING = ("all_reduce", "all_reduce_in_place", "reduce", "reduce_scatter", "reduce_scatter_v")
MOVING = ("broadcast", "all_gather", "all_gather_v", "scatter", "all_to_all", "all_to_all_v", "ring", "group")

# 8 ranks exchange at most 1 MiB in a round: these are several rounds, the last of them odd.
LARGE = 700_001


@pytest.fixture(scope="module", params=[1, 2, 3, 8])
def world(request: pytest.FixtureRequest, hccl_library: Path) -> Iterator[Ranks]:
    with ranks(hccl_library, request.param) as started:
        started.join()
        yield started


def check(world: Ranks, function: str, **settings: Any) -> None:
    answers = world.all("collective", function=function, **settings)
    assert answers == [{"code": 0, "text": "", "wrong": ""}] * world.size, (function, settings)


@pytest.mark.parametrize("function", REDUCING)
def test_reductions(world: Ranks, function: str) -> None:
    root = world.size - 1
    for dtype in REDUCIBLE:
        for op in (SUM, PRODUCT, MAX, MIN):
            if op == PRODUCT and dtype in NO_PRODUCT:
                continue
            for count in (1, 37):
                check(world, function, dtype=dtype, op=op, count=count, root=root, seed=dtype)


@pytest.mark.parametrize("function", REDUCING)
def test_reductions_of_several_rounds(world: Ranks, function: str) -> None:
    for dtype in (FLOAT16, INT64):
        check(world, function, dtype=dtype, op=SUM, count=LARGE // world.size, root=0, seed=5)


@pytest.mark.parametrize("op", [MAX, MIN])
def test_max_and_min_pass_nan_on(world: Ranks, op: int) -> None:
    for dtype in (FLOAT16, FLOAT32):
        check(world, "all_reduce", dtype=dtype, op=op, count=100, seed=WITH_NAN)


@pytest.mark.parametrize("function", MOVING)
def test_movements(world: Ranks, function: str) -> None:
    root = world.size - 1
    for dtype in MOVABLE:
        for count in (1, 37):
            check(world, function, dtype=dtype, count=count, root=root, seed=dtype)


@pytest.mark.parametrize("function", MOVING)
def test_movements_of_several_rounds(world: Ranks, function: str) -> None:
    for dtype in (UINT8, FLOAT64):
        check(world, function, dtype=dtype, count=LARGE // world.size, root=0, seed=5)


@pytest.mark.parametrize("function", [*REDUCING[:4], *MOVING])
def test_nothing_to_do(world: Ranks, function: str) -> None:
    check(world, function, dtype=FLOAT32, count=0)


def test_a_send_and_its_receive(world: Ranks) -> None:
    if world.size == 1:
        pytest.skip("a rank alone has no other")
    for count in (0, 1, LARGE):
        check(world, "send", dtype=INT32, count=count, root=world.size - 1)


def test_what_is_launched_is_counted(world: Ranks) -> None:
    before = world.all("counted", name="HcclAllReduce")
    check(world, "all_reduce", dtype=FLOAT16, count=1000)
    after = world.all("counted", name="HcclAllReduce")
    for one, two in zip(before, after, strict=True):
        assert one is not None and two is not None
        grown = [b - a for a, b in zip(one["counted"], two["counted"], strict=True)]
        assert grown == [1, 2000, 2000]


def test_sub_communicators(world: Ranks) -> None:
    """Of the even and of the odd ranks, in turned order, at once; made twice from the same parts."""
    for attempt in range(2):
        groups = [list(range(start, world.size, 2))[::-1] for start in (0, 1)]
        groups = [group for group in groups if group]
        for number, members in enumerate(groups):
            for rank in members:
                settings = {"parent": "world", "name": f"sub{attempt}", "members": members, "id": number}
                world.tell(rank, "create_sub", **settings)
        made = [world.answer(rank) for rank in range(world.size)]
        assert made == [{"code": 0, "text": ""}] * world.size
        for members in groups:
            for rank in members:
                settings = {"comm": f"sub{attempt}", "members": members, "dtype": FLOAT32, "count": 9}
                world.tell(rank, "collective", function="all_gather", **settings)
        answers = [world.answer(rank) for rank in range(world.size)]
        assert answers == [{"code": 0, "text": "", "wrong": ""}] * world.size
        gone = world.all("on", function="destroy", comm=f"sub{attempt}")
        assert gone == [{"code": 0, "text": ""}] * world.size
