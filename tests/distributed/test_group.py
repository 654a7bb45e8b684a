"""Digests, worlds, comparisons between ranks, and the reduction of a step over two of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from shufflenet_fn.distributed.group import (
    Agreement,
    RanksDiffer,
    check_equal_on_all_ranks,
    gather,
    process_group,
    tree_digest,
)
from shufflenet_fn.distributed.launch import launch
from shufflenet_fn.distributed.world import World, world_from_environment
from shufflenet_fn.errors import UsageError, UserError
from tests.distributed.rank_functions import everything
from tests.model.support import tiny_variables


def test_two_ranks_equal_one_process_and_ddp() -> None:
    assert launch(everything, [1, 2], processes=2) == (0, [1, 2])


def test_digest_covers_paths_dtypes_shapes_and_bytes() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor(3)
    zeros = (torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool)
    trees: list[dict[str, torch.Tensor]] = [
        {"a": a, "b": b},
        {"a": a, "c": b},
        {"a": torch.tensor([1.0, 2.0000002]), "b": b},
        {"a": torch.tensor([[1.0, 2.0]]), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": a, "b": b.int()},
        {"a": a},
        {},
        {"a": torch.tensor(0.0)},
        {"a": torch.tensor(-0.0)},
        *({"a": torch.ones(shape).to(dtype)} for dtype in zeros for shape in ((), (0,), (3,), (2, 3))),
        *({"a": torch.zeros(3).to(dtype)} for dtype in zeros),
    ]
    assert len({tree_digest(tree) for tree in trees}) == len(trees)
    assert tree_digest({"a": torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0], "b": b}) == tree_digest(trees[0])


def test_single_process_needs_no_group() -> None:
    world = World()
    with process_group(world, "no such backend"):
        assert not torch.distributed.is_initialized()
        assert gather({"a": 1}, world) == [{"a": 1}]
        check_equal_on_all_ranks(tiny_variables(), world, "the state")
        Agreement(world, None).check("digest", "the state")


def test_world_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert world_from_environment() is None
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert world_from_environment() is None
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(UsageError, match="LOCAL_RANK"):
        world_from_environment()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert world_from_environment() == World(rank=5, size=8, local_rank=1, local_size=4)


# ---- ranks compare digests without a collective; here each rank is a thread ----


def on_ranks(size: int, body: Callable[[Agreement, int], None]) -> list[BaseException | None]:
    """How ``body`` ends on each rank."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
    clients = [
        dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=20))
        for _ in range(size)
    ]

    def rank(number: int) -> BaseException | None:
        agreement = Agreement(World(number, size), clients[number], timeout_s=5.0)
        try:
            body(agreement, number)
        except UserError as error:
            return error
        return None

    with ThreadPoolExecutor(size) as pool:
        ended = list(pool.map(rank, range(size)))
    # The store's own entry aside, at most the last verdict is left, and who has read that ranks differ.
    assert store.num_keys() <= (2 if ended[0] is None else 1 + size)
    return ended


def test_equal_digests_agree_repeatedly() -> None:
    def body(agreement: Agreement, rank: int) -> None:
        for number in range(20):
            agreement.check(f"digest {number}", "the state")

    assert on_ranks(3, body) == [None] * 3


def test_difference_is_raised_on_every_rank() -> None:
    def body(agreement: Agreement, rank: int) -> None:
        agreement.check("same", "the state after step 1")
        agreement.check("other" if rank == 2 else "same", "the state after step 2")

    errors = on_ranks(3, body)
    assert len({str(error) for error in errors}) == 1
    assert "the state after step 2 differs between ranks: ranks [2]" in str(errors[0])


class SlowToRead:
    """A store that gives what was left only some time after it is there."""

    def __init__(self, store: dist.TCPStore) -> None:
        self._store = store
        self.read: list[tuple[str, float]] = []

    def set(self, key: str, value: str) -> None:
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        time.sleep(0.5)
        value = bytes(self._store.get(key))
        self.read.append((key, time.monotonic()))
        return value

    def check(self, keys: list[str]) -> bool:
        return bool(self._store.check(keys))

    def delete_key(self, key: str) -> bool:
        return bool(self._store.delete_key(key))


def test_rank_0_ends_last_when_ranks_differ() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    slow = SlowToRead(dist.TCPStore("127.0.0.1", store.port, is_master=False))

    def check(agreement: Agreement, digest: str) -> float:
        with pytest.raises(RanksDiffer, match=r"ranks \[1\]"):
            agreement.check(digest, "the state")
        return time.monotonic()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(check, Agreement(World(0, 2), store), "one")
        second = pool.submit(check, Agreement(World(1, 2), slow), "other")
        (read,) = slow.read if second.result() else []
        assert read[0] == "verdict/0" and first.result() > read[1]


def test_wait_ends_at_timeout_and_give_up() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    slow = Agreement(World(0, 2), store, timeout_s=0.2)
    with pytest.raises(UserError, match="no answer from another rank"):
        slow.check("digest", "the state")
    alone = Agreement(World(0, 2), store, timeout_s=60)
    threading.Timer(0.1, alone.give_up).start()
    start = time.monotonic()
    with pytest.raises(UserError, match="was not compared"):
        alone.check("digest", "the state")
    assert time.monotonic() - start < 10
