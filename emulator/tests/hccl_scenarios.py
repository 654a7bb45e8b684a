"""What the ranks of ``test_hccl.py`` do: each function runs in every rank."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
import torch.distributed as dist

from tests import hccl_cases
from tests.device_failures import synchronize


def join(rank: int, size: int, store: str) -> torch.device:
    """The usual start of a rank: its device first, then the process group."""
    torch.npu.set_device(rank)  # type: ignore[attr-defined]
    dist.init_process_group("hccl", init_method=store, rank=rank, world_size=size)
    return torch.device("npu", rank)


def values(rank: int, size: int, store: str) -> dict[str, str]:
    """All cases, in all ranks together and in groups of 2 and of 3 of them; what is wrong in each."""
    device = join(rank, size, store)
    groups = {size: (dist.group.WORLD, list(range(size)))}
    for ranks in ([0, 1], [1, 2, 3]):
        # Every rank makes every group, as torch.distributed asks for.
        groups[len(ranks)] = (dist.new_group(ranks), ranks)
    wrong = {}
    for number, (group, ranks) in groups.items():
        if rank not in ranks:
            continue
        for case in hccl_cases.CASES:
            wrong[f"{case.__name__}-{number}"] = case(hccl_cases.Group(group, ranks, device))
    dist.barrier()
    dist.destroy_process_group()
    return wrong


def train(rank: int, size: int, store: str) -> str:
    """A few collectives, each waited for on the host; the error that ends them, as Python sees it."""
    device = join(rank, size, store)
    data = torch.ones(1000).to(device)
    for _ in range(5):
        dist.all_reduce(data)
        synchronize()
    dist.destroy_process_group()
    return "done"


def die(rank: int, size: int, store: str) -> str:
    """Rank 1 is killed between two collectives."""
    device = join(rank, size, store)
    data = torch.ones(1000).to(device)
    dist.all_reduce(data)
    synchronize()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(data)
    synchronize()
    return "done"


def all_die(rank: int, size: int, store: str) -> str:
    """All are killed at once, after collectives of each kind and with a message on its way."""
    device = join(rank, size, store)
    data = torch.ones(100_000).to(device)
    dist.all_reduce(data)
    dist.barrier()
    if rank < 2:
        dist.send(data, 1 - rank)
    synchronize()
    os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def linger(rank: int, size: int, store: str) -> str:
    """Two collectives, and then nothing for a while: long enough for the watchdog to look."""
    device = join(rank, size, store)
    for _ in range(2):
        dist.all_reduce(torch.ones(10).to(device))
    synchronize()
    time.sleep(2.0)
    # Not by destroying the group, which is another thing that a watchdog may interrupt.
    os._exit(0)


def differ(rank: int, size: int, store: str) -> str:
    """Rank 1 has one element more."""
    device = join(rank, size, store)
    dist.all_reduce(torch.ones(10 + rank).to(device))
    synchronize()
    return "done"


def absent(rank: int, size: int, store: str) -> str:
    """Rank 1 joins the process group, but not HCCL's communicator, which the first collective makes."""
    device = join(rank, size, store)
    if rank == 1:
        time.sleep(4)
    dist.all_reduce(torch.ones(10).to(device))
    synchronize()
    return "done"


def same_device(rank: int, size: int, store: str) -> str:
    """Nobody calls ``set_device``."""
    dist.init_process_group("hccl", init_method=store, rank=rank, world_size=size)
    dist.all_reduce(torch.ones(10).to("npu"))
    synchronize()
    return "done"


def refused(rank: int, size: int, store: str) -> list[Any]:
    """What is said to a reduction of float64, and what one of bool gives."""
    device = join(rank, size, store)
    try:
        dist.all_reduce(torch.ones(3, dtype=torch.float64).to(device))
        message = "accepted"
    except RuntimeError as error:
        message = str(error)
    either = torch.tensor([rank == 0, rank == 1, False]).to(device)
    dist.all_reduce(either)
    values = either.cpu().tolist()
    dist.destroy_process_group()
    return [message, values]
