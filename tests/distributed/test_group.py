"""Digests, worlds, and the launcher: one result or one clear error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

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
from shufflenet_fn.distributed.launch import Launch, RankFailed, launch
from shufflenet_fn.distributed.world import World, world_from_environment
from shufflenet_fn.errors import UsageError, UserError
from tests.distributed.rank_functions import (
    bug_while_the_other_waits,
    fail_while_the_other_waits,
    killed_while_the_other_waits,
    told_of_a_lost_peer,
)
from tests.model.support import tiny_variables

# A start of two processes takes about 4 s here; what is bounded is the end.
BOUND_S = 60.0


@contextmanager
def bounded() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < BOUND_S


@pytest.mark.parametrize("waiting", ["in a collective", "asleep"])
def test_failing_rank_gives_message_and_exit_code(waiting: str, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    watching = Launch(max_restarts=5, say=said.append)
    with bounded(), pytest.raises(RankFailed) as error:
        launch(fail_while_the_other_waits, waiting, processes=2, watching=watching)
    assert not said, "what the user can fix is not tried again"
    assert str(error.value) == "the folder /nowhere is missing (rank 1)"
    assert error.value.exit_code == 2
    assert isinstance(error.value, UserError)
    assert capfd.readouterr().err == ""


def test_killed_rank_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with bounded(), pytest.raises(RankFailed) as error:
        launch(killed_while_the_other_waits, "in a collective", processes=2)
    assert "rank 1 was killed by SIGKILL" in str(error.value)
    assert "memory" in str(error.value)
    assert error.value.exit_code == 1
    assert capfd.readouterr().err == ""


def test_bug_on_one_rank_keeps_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with bounded(), pytest.raises(RankFailed) as error:
        launch(bug_while_the_other_waits, "in a collective", processes=2)
    assert "rank 1 failed with ZeroDivisionError" in str(error.value)
    assert "traceback is above" in str(error.value)
    assert error.value.exit_code == 1
    shown = capfd.readouterr().err
    assert "in bug_while_the_other_waits" in shown
    assert "ZeroDivisionError: a bug, not the user's to mend" in shown
    assert "SIGTERM" not in shown and shown.count("Traceback") == 1


def test_lost_connection_is_explained(capfd: pytest.CaptureFixture[str]) -> None:
    with bounded(), pytest.raises(RankFailed) as error:
        launch(told_of_a_lost_peer, None, processes=2)
    assert "Connection closed by peer" in str(error.value)
    assert "Look for the first error of all ranks" in str(error.value)
    # Known, so it is a message and not a traceback.
    assert "Traceback" not in capfd.readouterr().err


def test_digest_covers_paths_dtypes_shapes_and_bytes() -> None:
    def digest(tree: Any) -> str:
        return tree_digest(tree)

    base = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    others = [
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0000002]), "b": torch.tensor(3)},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]).view(torch.int32), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3, dtype=torch.int32)},
        {"a": torch.tensor([1.0, 2.0])},
        {},
    ]
    digests = [digest(base), *map(digest, others)]
    assert len(set(digests)) == len(digests)
    assert digest({"a": torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0], "b": torch.tensor(3)}) == (digests[0])


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool], ids=str
)
def test_digest_of_every_dtype_and_shape(dtype: torch.dtype) -> None:
    trees = [{"a": torch.ones(shape).to(dtype)} for shape in ((), (0,), (3,), (2, 3))]
    assert len({tree_digest(tree) for tree in trees}) == 4
    assert tree_digest(tree_of_zero := {"a": torch.zeros(3).to(dtype)}) != tree_digest(trees[2])
    assert tree_digest(tree_of_zero) == tree_digest({"a": torch.zeros(3).to(dtype)})


def test_digest_distinguishes_signed_zeros() -> None:
    assert tree_digest({"a": torch.tensor(0.0)}) != tree_digest({"a": torch.tensor(-0.0)})


def test_single_process_needs_no_group() -> None:
    world = World()
    with process_group(world, "no such backend"):
        assert not torch.distributed.is_initialized()
        assert gather({"a": 1}, world) == [{"a": 1}]
        check_equal_on_all_ranks(tiny_variables(), world, "the state")


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
    # The store's own entry aside, at most the last verdict is left.
    assert store.num_keys() <= 2
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


def test_single_rank_agrees() -> None:
    Agreement(World(), None).check("digest", "the state")


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
