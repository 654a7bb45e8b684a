"""The process group, and comparisons between ranks outside the step."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from shufflenet_fn.distributed.network import Store, master_address, use_the_network_between_machines
from shufflenet_fn.distributed.world import World
from shufflenet_fn.tree import tree_paths
from shufflenet_fn_backends.support.errors import UserError

T = TypeVar("T")


@contextmanager
def process_group(world: World, backend: str, *, timeout_s: float = 600.0) -> Iterator[tuple[str, ...]]:
    """Join the process group within the context. A single process has no group.

    The device must have been set before (``Runtime.set_device``). Addresses come from the environment.
    Yields notes on the network that collectives between machines use.

    Raises:
        UserError: machine 0 cannot be reached, or this rank has joined before.
    """
    if world.size == 1:
        yield ()
        return
    timeout = timedelta(seconds=timeout_s)
    os.environ["MASTER_ADDR"] = host = master_address(world)
    store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
    # torchrun gives restarted ranks the same store, with the keys of the first ones.
    store = dist.PrefixStore(f"attempt-{world.attempt}", store)  # type: ignore[attr-defined]
    port = int(os.environ["MASTER_PORT"])
    if world.size > world.local_size and store.add(f"rank-{world.rank}", 1) > 1:
        raise UserError(
            f"rank {world.rank} has joined this run at {host}:{port} before: either --node-rank "
            f"{world.rank // world.local_size} was given on two machines, or the run before has not ended "
            "yet on machine 0. Give each machine a number of its own, and start again once that run has "
            "ended."
        )
    notes = use_the_network_between_machines(world, store, backend, host, port)
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
    yield notes
    # Not after an error: destroying the group may wait for the others' collectives, and the others would
    # report a lost connection before this process has reported its error.
    dist.destroy_process_group()


def gather(value: T, world: World) -> list[T]:
    """Return the picklable ``value`` of every rank, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def tree_digest(tree: Any) -> str:
    """Return the SHA-256 of paths, dtypes, shapes and bytes of all leaves."""
    digest = hashlib.sha256()
    for path, leaf in tree_paths(tree):
        tensor = leaf.detach().cpu().contiguous()
        digest.update(f"{path}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_equal_on_all_ranks(tree: Any, world: World, what: str) -> None:
    """Raise ``UserError`` on every rank unless all hold the same bytes."""
    message = _difference(gather(tree_digest(tree), world), what)
    if message is not None:
        raise UserError(message)


def _difference(digests: list[str], what: str) -> str | None:
    """Return an error message if a rank's digest differs from rank 0's, else ``None``."""
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if not different:
        return None
    return (
        f"{what} differs between ranks: ranks {different} do not hold what rank 0 holds. Training "
        "would compute nonsense, so it stops. All ranks must run the same versions of torch and "
        "shufflenet-fn on the same kind of device."
    )


def group_store(world: World) -> Store | None:
    """Return a connection to the store of the process group; ``None`` for one process."""
    if world.size == 1:
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=False, wait_for_workers=False
    )
    store: Store = dist.PrefixStore(f"attempt-{world.attempt}", client)  # type: ignore[attr-defined]
    return store


_AGREED: Final = "agreed"
_PAUSES_S: Final = (0.001, 0.05)
_SEEN_S: Final = 10.0
"""Seconds that rank 0 waits for the others to read that they differ, because a hung rank never does."""


class RanksDiffer(UserError):
    """Raised on all ranks when they do not hold the same bytes."""


class Agreement:
    """Compares digests of all ranks through a store, without a collective, so from any thread.

    Every rank must make the same checks in the same order, from one thread each, and waits for the others
    for ``timeout_s``. ``store`` is that of ``group_store``.
    """

    def __init__(self, world: World, store: Store | None, *, timeout_s: float = 600.0) -> None:
        self._world, self._store, self._timeout_s = world, store, timeout_s
        self._asked = 0
        self._given_up = threading.Event()

    def check(self, digest: str, what: str) -> None:
        """Return on every rank if all have the same ``digest``.

        Raises:
            RanksDiffer: on every rank, if the digest of any rank differs.
            UserError: the others did not answer in time, or ``give_up`` was called.
        """
        if self._store is None:
            return
        store, number = self._store, self._asked
        self._asked += 1
        store.set(f"digest/{number}/{self._world.rank}", digest)
        if not self._world.is_main:
            answer = self._get(store, f"verdict/{number}", what)
            if answer != _AGREED:
                store.set(f"seen/{number}/{self._world.rank}", "")
                raise RanksDiffer(answer)
            return
        keys = [f"digest/{number}/{rank}" for rank in range(self._world.size)]
        digests = [self._get(store, key, what) for key in keys]
        message = _difference(digests, what)
        store.set(f"verdict/{number}", message or _AGREED)
        # All ranks have reached this check, so all have read the result of the previous one: delete it.
        for key in (*keys, f"verdict/{number - 1}"):
            store.delete_key(key)
        if message is not None:
            # Rank 0 ends now and may take the store with it.
            seen = [f"seen/{number}/{rank}" for rank in range(1, self._world.size)]
            end = time.monotonic() + _SEEN_S
            while not store.check(seen) and time.monotonic() < end and not self._given_up.wait(_PAUSES_S[0]):
                pass
            raise RanksDiffer(message)

    def give_up(self) -> None:
        """Stop waiting for other ranks; any thread may call this."""
        self._given_up.set()

    def _get(self, store: Store, key: str, what: str) -> str:
        # Polled, because a blocking wait could not be given up.
        end, pause = time.monotonic() + self._timeout_s, _PAUSES_S[0]
        while not store.check([key]):
            if self._given_up.wait(pause):
                raise UserError(f"{what} was not compared with the other ranks': the run ends.")
            if time.monotonic() > end:
                raise UserError(
                    f"{what} could not be compared: no answer from another rank in {self._timeout_s:.0f} s."
                )
            pause = min(2 * pause, _PAUSES_S[1])
        return bytes(store.get(key)).decode()
