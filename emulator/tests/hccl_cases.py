"""What a rank does in the tests of ``torch.distributed`` with the emulated HCCL. Not imported by pytest.

Every rank makes the values of every other as well, so each can tell what it must get. A case returns what
is wrong, or nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

REDUCIBLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.bfloat16)
MOVABLE = (*REDUCIBLE, torch.uint8, torch.bool, torch.float64)
NO_PRODUCT = (torch.int16, torch.bfloat16)
# torch_npu pads what it gathers to 512 bytes: less, exactly that, and more.
COUNTS = (1, 5, 256, 1031)

Case = Callable[["Group"], str]


class Group:
    """A process group, this process's rank in it, and the device."""

    def __init__(self, group: Any, ranks: list[int], device: torch.device) -> None:
        self.group, self.ranks, self.device = group, ranks, device
        self.size = len(ranks)
        self.rank = ranks.index(dist.get_rank())

    def of(self, rank: int, dtype: torch.dtype, count: int, salt: int = 0) -> Tensor:
        """What a rank contributes, on the CPU. Small integers: sums of them are exact everywhere."""
        random = torch.Generator().manual_seed(1000 * salt + rank)
        drawn = torch.randint(-5, 6, (count,), generator=random)
        if dtype.is_floating_point:
            # Halves and quarters round in float16 and bfloat16 where they are multiplied or added up.
            return (torch.randn(count, generator=random) + drawn).to(dtype)
        return drawn.abs().to(dtype) if dtype in (torch.uint8, torch.bool) else drawn.to(dtype)

    def mine(self, dtype: torch.dtype, count: int, salt: int = 0) -> Tensor:
        return self.of(self.rank, dtype, count, salt).to(self.device)

    def room(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """Filled with what no result is."""
        return torch.full(shape, 77 if dtype is not torch.bool else 1).to(dtype).to(self.device)

    def all(self, dtype: torch.dtype, count: int, salt: int = 0) -> list[Tensor]:
        return [self.of(rank, dtype, count, salt) for rank in range(self.size)]


def differs(what: str, got: Tensor, expected: Tensor) -> str:
    here = got.cpu()
    if here.dtype == expected.dtype and torch.equal(here, expected):
        return ""
    return f"{what}: got {here.flatten()[:8]}, expected {expected.flatten()[:8]}; "


def reduced(op: Any, tensors: list[Tensor]) -> Tensor:
    """In the order of ranks, rounded after each, as HCCL is emulated."""
    functions = {
        dist.ReduceOp.SUM: torch.add,
        dist.ReduceOp.PRODUCT: torch.mul,
        dist.ReduceOp.MAX: torch.maximum,
        dist.ReduceOp.MIN: torch.minimum,
    }
    return functools.reduce(functions[op], tensors)


def reductions() -> list[tuple[Any, torch.dtype]]:
    ops = (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MAX, dist.ReduceOp.MIN)
    return [
        (op, dtype)
        for op in ops
        for dtype in REDUCIBLE
        if not (op == dist.ReduceOp.PRODUCT and dtype in NO_PRODUCT)
    ]


def all_reduce(group: Group) -> str:
    wrong = ""
    for op, dtype in reductions():
        for count in (5, 1031):
            data = group.mine(dtype, count)
            dist.all_reduce(data, op, group=group.group)
            wrong += differs(f"{op} {dtype}", data, reduced(op, group.all(dtype, count)))
    return wrong


def all_reduce_average(group: Group) -> str:
    data = group.mine(torch.float32, 100)
    dist.all_reduce(data, dist.ReduceOp.AVG, group=group.group)
    expected = reduced(dist.ReduceOp.SUM, group.all(torch.float32, 100)) / group.size
    return differs("AVG", data, expected)


def all_reduce_large(group: Group) -> str:
    """Several rounds through the shared memory."""
    count = 1_500_001
    data = group.mine(torch.float32, count)
    dist.all_reduce(data, group=group.group)
    return differs("large", data, reduced(dist.ReduceOp.SUM, group.all(torch.float32, count)))


def all_reduce_async(group: Group) -> str:
    """Several on their way at once, waited for in the other order."""
    tensors = [group.mine(torch.float32, 50, salt) for salt in range(4)]
    works = [dist.all_reduce(data, group=group.group, async_op=True) for data in tensors]
    for work in reversed(works):
        work.wait()
    wrong = ""
    for salt, data in enumerate(tensors):
        expected = reduced(dist.ReduceOp.SUM, group.all(torch.float32, 50, salt))
        wrong += differs(f"async {salt}", data, expected)
    return wrong + ("" if all(work.is_completed() for work in works) else "not completed; ")


def reduce(group: Group) -> str:
    wrong = ""
    for op, dtype in reductions():
        for root in (0, group.size - 1):
            data = group.mine(dtype, 9)
            dist.reduce(data, group.ranks[root], op, group=group.group)
            if group.rank == root:
                wrong += differs(f"{op} {dtype}", data, reduced(op, group.all(dtype, 9)))
    return wrong


def reduce_scatter(group: Group) -> str:
    wrong = ""
    for dtype in REDUCIBLE:
        for count in COUNTS:
            inputs = [group.mine(dtype, count, salt) for salt in range(group.size)]
            output = group.room(dtype, count)
            dist.reduce_scatter(output, inputs, group=group.group)
            expected = reduced(dist.ReduceOp.SUM, group.all(dtype, count, group.rank))
            wrong += differs(f"list {dtype} {count}", output, expected)
            output = group.room(dtype, count)
            dist.reduce_scatter_tensor(output, torch.cat(inputs), group=group.group)
            wrong += differs(f"tensor {dtype} {count}", output, expected)
    return wrong


def broadcast(group: Group) -> str:
    wrong = ""
    for dtype in MOVABLE:
        for root in (0, group.size - 1):
            data = group.mine(dtype, 33)
            dist.broadcast(data, group.ranks[root], group=group.group)
            wrong += differs(f"{dtype} from {root}", data, group.of(root, dtype, 33))
    return wrong


def all_gather(group: Group) -> str:
    wrong = ""
    for dtype in MOVABLE:
        for count in COUNTS:
            outputs = [group.room(dtype, count) for _ in range(group.size)]
            dist.all_gather(outputs, group.mine(dtype, count), group=group.group)
            for rank, output in enumerate(outputs):
                wrong += differs(f"list {dtype} {count}", output, group.of(rank, dtype, count))
            output = group.room(dtype, count * group.size)
            dist.all_gather_into_tensor(output, group.mine(dtype, count), group=group.group)
            expected = torch.cat(group.all(dtype, count))
            wrong += differs(f"tensor {dtype} {count}", output, expected)
    return wrong


def all_gather_shapes(group: Group) -> str:
    """Matrices, and of another size on each rank, which torch_npu does by broadcasts."""
    outputs = [group.room(torch.float32, 3, 7) for _ in range(group.size)]
    dist.all_gather(outputs, group.mine(torch.float32, 21).view(3, 7), group=group.group)
    wrong = ""
    for rank, output in enumerate(outputs):
        wrong += differs("matrix", output, group.of(rank, torch.float32, 21).view(3, 7))
    outputs = [group.room(torch.float32, rank + 1) for rank in range(group.size)]
    dist.all_gather(outputs, group.mine(torch.float32, group.rank + 1), group=group.group)
    for rank, output in enumerate(outputs):
        wrong += differs("uneven", output, group.of(rank, torch.float32, rank + 1))
    return wrong


def all_gather_async(group: Group) -> str:
    output = group.room(torch.int32, 6 * group.size)
    mine = group.mine(torch.int32, 6)
    work = dist.all_gather_into_tensor(output, mine, group=group.group, async_op=True)
    work.wait()
    return differs("async", output, torch.cat(group.all(torch.int32, 6)))


def scatter(group: Group) -> str:
    wrong = ""
    for dtype in (torch.int8, torch.int32, torch.float16, torch.float32):
        for root in (0, group.size - 1):
            parts = [group.of(root, dtype, 9, salt).to(group.device) for salt in range(group.size)]
            output = group.room(dtype, 9)
            sends = parts if group.rank == root else None
            dist.scatter(output, sends, group.ranks[root], group=group.group)
            wrong += differs(f"{dtype} from {root}", output, parts[group.rank].cpu())
    return wrong


def all_to_all(group: Group) -> str:
    wrong = ""
    for dtype in (torch.uint8, torch.float16, torch.int64):
        mine = torch.cat([group.mine(dtype, 4, salt) for salt in range(group.size)])
        output = group.room(dtype, 4 * group.size)
        dist.all_to_all_single(output, mine, group=group.group)
        expected = torch.cat([group.of(rank, dtype, 4, group.rank) for rank in range(group.size)])
        wrong += differs(f"even {dtype}", output, expected)
        # Rank a sends a + b elements to rank b.
        counts = [group.rank + other for other in range(group.size)]
        mine = torch.cat([group.mine(dtype, n, salt) for salt, n in enumerate(counts)])
        output = group.room(dtype, sum(counts))
        dist.all_to_all_single(output, mine, counts, counts, group=group.group)
        parts = [group.of(rank, dtype, n, group.rank) for rank, n in enumerate(counts)]
        wrong += differs(f"uneven {dtype}", output, torch.cat(parts))
        sends = [group.mine(dtype, n + 1, salt) for salt, n in enumerate(counts)]
        receives = [group.room(dtype, n + 1) for n in counts]
        dist.all_to_all(receives, sends, group=group.group)
        for rank, received in enumerate(receives):
            expected = group.of(rank, dtype, counts[rank] + 1, group.rank)
            wrong += differs(f"list {dtype}", received, expected)
    return wrong


def send_and_receive(group: Group) -> str:
    """From each even rank to the next, and back."""
    peer = group.rank + 1 if group.rank % 2 == 0 else group.rank - 1
    if peer >= group.size:
        return ""
    wrong = ""
    for dtype in MOVABLE:
        received = group.room(dtype, 9)
        if group.rank < peer:
            dist.send(group.mine(dtype, 9), group.ranks[peer], group=group.group)
            dist.recv(received, group.ranks[peer], group=group.group)
        else:
            dist.recv(received, group.ranks[peer], group=group.group)
            dist.send(group.mine(dtype, 9), group.ranks[peer], group=group.group)
        wrong += differs(str(dtype), received, group.of(peer, dtype, 9))
    return wrong


def batch_of_transfers(group: Group) -> str:
    """All to the next and from the one before, at once."""
    after, before = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    received = group.room(torch.float32, 40)
    operations = [
        dist.P2POp(dist.isend, group.mine(torch.float32, 40), group.ranks[after], group.group),
        dist.P2POp(dist.irecv, received, group.ranks[before], group.group),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return differs("batch", received, group.of(before, torch.float32, 40))


def objects(group: Group) -> str:
    gathered: list[Any] = [None] * group.size
    mine = {"rank": group.rank, "text": "x" * (100 * group.rank)}
    dist.all_gather_object(gathered, mine, group=group.group)
    expected = [{"rank": rank, "text": "x" * (100 * rank)} for rank in range(group.size)]
    wrong = "" if gathered == expected else f"all_gather_object: {gathered}; "
    sent: list[Any] = [("hello", 5) if group.rank == 0 else None]
    dist.broadcast_object_list(sent, group.ranks[0], group=group.group, device=group.device)
    return wrong + ("" if sent == [("hello", 5)] else f"broadcast_object_list: {sent}; ")


def barrier(group: Group) -> str:
    for _ in range(3):
        dist.barrier(group=group.group)
    return ""


CASES: tuple[Case, ...] = (
    all_reduce,
    all_reduce_average,
    all_reduce_large,
    all_reduce_async,
    reduce,
    reduce_scatter,
    broadcast,
    all_gather,
    all_gather_shapes,
    all_gather_async,
    scatter,
    all_to_all,
    send_and_receive,
    batch_of_transfers,
    objects,
    barrier,
)
