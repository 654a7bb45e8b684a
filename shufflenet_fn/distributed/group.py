"""The process group, and the few questions that ranks ask each other outside the step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from shufflenet_fn.distributed.reaching import use_the_network_between_machines
from shufflenet_fn.distributed.store import Store
from shufflenet_fn.distributed.world import World
from shufflenet_fn.tree import tree_paths
from shufflenet_fn_backends.support.errors import UserError

T = TypeVar("T")


@contextmanager
def process_group(
    world: World, backend: str, *, timeout_s: float = 600.0
) -> Iterator[tuple[str, ...]]:
    """Join the group for the body; nothing to join for one process.

    The device must have been set before (``Runtime.set_device``). Addresses come from the environment. Gives
    notes on the network that collectives between machines use.

    Raises:
        UserError: machine 0 cannot be reached.
    """
    if world.size == 1:
        yield ()
        return
    timeout = timedelta(seconds=timeout_s)
    store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
    # Elastic gives ranks that it has started again the same store, with what the first ones left in it.
    store = distributed_c10d.PrefixStore(f"attempt-{world.attempt}", store)
    notes = use_the_network_between_machines(
        world, store, backend, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    )
    dist.init_process_group(
        backend,
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=timeout,
    )
    yield notes
    # Not after an error: taking the group down waits for the others' collectives on some devices, and on
    # all it tells them of a lost connection before this process has said what went wrong.
    dist.destroy_process_group()


def gather(value: T, world: World) -> list[T]:
    """``value`` of every rank, in rank order, on every rank. Any picklable value."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def tree_digest(tree: Any) -> str:
    """SHA-256 over paths, dtypes, shapes and bytes of all leaves."""
    digest = hashlib.sha256()
    for path, leaf in tree_paths(tree):
        tensor = leaf.detach().cpu().contiguous()
        digest.update(f"{path}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_equal_on_all_ranks(tree: Any, world: World, what: str) -> None:
    """Raise ``UserError`` on every rank unless all hold the same bytes."""
    message = differing_ranks(gather(tree_digest(tree), world), what)
    if message is not None:
        raise UserError(message)


def differing_ranks(digests: list[str], what: str) -> str | None:
    """What to say if not all ranks gave the digest of rank 0; ``None`` if all did."""
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if not different:
        return None
    return (
        f"{what} differs between ranks: ranks {different} do not hold what rank 0 holds. Training "
        "would compute nonsense, so it stops. All ranks must run the same versions of torch and "
        "shufflenet-fn on the same kind of device."
    )


def group_store(world: World) -> Store | None:
    """The store of the process group; ``None`` for one process."""
    if world.size == 1:
        return None
    store: Store = distributed_c10d._get_default_store()
    return store
