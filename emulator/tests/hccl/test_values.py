"""Collectives on 3 processes, against numpy: what ``test_hccl.py`` does not see through torch_npu."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hccl.ranks import Ranks, ranks
from tests.hccl.worker import FLOAT16, FLOAT32, FLOAT64, INT64, MAX, MIN, SUM, UINT32, WITH_NAN

# 3 ranks exchange at most 1 MiB in a round: these are several rounds, the last of them odd.
LARGE = 233_333


@pytest.fixture(scope="module")
def world(hccl_library: Path) -> Iterator[Ranks]:
    with ranks(hccl_library, 3) as started:
        started.join()
        yield started


def check(world: Ranks, function: str, **settings: Any) -> None:
    answers = world.all("collective", function=function, **settings)
    assert answers == [{"code": 0, "text": "", "wrong": ""}] * world.size, (function, settings)


@pytest.mark.parametrize("count", [0, 1, 37, LARGE])
def test_uneven_parts(world: Ranks, count: int) -> None:
    for dtype in (FLOAT16, INT64):
        check(world, "reduce_scatter_v", dtype=dtype, op=SUM, count=count, seed=5)
    for function in ("all_gather_v", "all_to_all_v"):
        for dtype in (UINT32, FLOAT64):
            check(world, function, dtype=dtype, count=count, seed=5)


@pytest.mark.parametrize("op", [MAX, MIN])
def test_max_and_min_pass_nan_on(world: Ranks, op: int) -> None:
    for dtype in (FLOAT16, FLOAT32):
        check(world, "all_reduce", dtype=dtype, op=op, count=100, seed=WITH_NAN)


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
