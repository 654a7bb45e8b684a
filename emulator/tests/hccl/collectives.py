"""Each collective, called through the library and compared with numpy. Runs in ``worker.py``."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
from worker import KINDS, reduced, values

if TYPE_CHECKING:
    from worker import Rank


def run(
    process: Rank,
    function: str,
    comm: ctypes.c_void_p,
    rank: int,
    size: int,
    *,
    dtype: int,
    count: int,
    op: int = 0,
    root: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The code and text of the call, and in ``wrong`` what differs from numpy, or nothing."""
    case = _Case(process, comm, rank, size, dtype, count, op, root, seed)
    done, got, expected = getattr(case, function)()
    wrong = ""
    if done["code"] == 0 and expected is not None and got.tobytes() != expected.tobytes():
        places = np.flatnonzero(got.view(np.uint8) != expected.view(np.uint8))
        wrong = f"rank {rank}: {len(places)} bytes of {got.nbytes}, the first at {places[0]}"
    return {**done, "wrong": wrong}


_Outcome = tuple[dict[str, Any], np.ndarray, "np.ndarray | None"]


class _Case:
    def __init__(
        self,
        process: Rank,
        comm: ctypes.c_void_p,
        rank: int,
        size: int,
        dtype: int,
        count: int,
        op: int,
        root: int,
        seed: int,
    ) -> None:
        self.process, self.comm, self.rank, self.size = process, comm, rank, size
        self.dtype, self.count, self.op, self.root, self.seed = dtype, count, op, root, seed

    def of(self, rank: int, count: int | None = None) -> np.ndarray:
        return values(self.dtype, self.count if count is None else count, self.seed, rank)

    def room(self, count: int) -> np.ndarray:
        """Filled with what no result is: a value left untouched is seen."""
        kind = np.dtype(KINDS[self.dtype])
        return np.frombuffer(bytes([0x5A]) * (count * kind.itemsize), kind).copy()

    def call(self, name: str, *arguments: Any) -> dict[str, Any]:
        converted = [
            argument.ctypes.data_as(ctypes.c_void_p) if isinstance(argument, np.ndarray) else argument
            for argument in arguments
        ]
        return self.process.call(name, self.comm, *converted)

    def uneven(self, rank: int, other: int) -> int:
        """How many elements a rank has for another in the calls with counts; none for some."""
        return (self.count * (rank + 2 * other) // (3 * self.size)) if (rank + other) % 3 else 0

    # ---- reductions ---------------------------------------------------------------------------

    def all_reduce(self) -> _Outcome:
        send, receive = self.of(self.rank), self.room(self.count)
        done = self.call("all_reduce", send, receive, ctypes.c_uint64(self.count), self.dtype, self.op)
        return done, receive, reduced(self.dtype, self.op, [self.of(r) for r in range(self.size)])

    def reduce(self) -> _Outcome:
        send, receive = self.of(self.rank), self.room(self.count)
        done = self.call("reduce", send, receive, ctypes.c_uint64(self.count), self.dtype, self.op, self.root)
        if self.rank != self.root:
            return done, receive, self.room(self.count)
        return done, receive, reduced(self.dtype, self.op, [self.of(r) for r in range(self.size)])

    def reduce_scatter_v(self) -> _Outcome:
        counts = [self.uneven(0, other) for other in range(self.size)]
        places = _places(counts, gap=3)
        total = places[-1] + counts[-1]
        receive = self.room(counts[self.rank])
        done = self.call(
            "reduce_scatter_v",
            self.of(self.rank, total),
            _array(counts),
            _array(places),
            receive,
            ctypes.c_uint64(counts[self.rank]),
            self.dtype,
            self.op,
        )
        mine = slice(places[self.rank], places[self.rank] + counts[self.rank])
        return (
            done,
            receive,
            reduced(self.dtype, self.op, [self.of(r, total)[mine] for r in range(self.size)]),
        )

    # ---- movements ----------------------------------------------------------------------------

    def broadcast(self) -> _Outcome:
        data = self.of(self.rank)
        done = self.call("broadcast", data, ctypes.c_uint64(self.count), self.dtype, self.root)
        return done, data, self.of(self.root)

    def all_gather(self) -> _Outcome:
        receive = self.room(self.count * self.size)
        done = self.call("all_gather", self.of(self.rank), receive, ctypes.c_uint64(self.count), self.dtype)
        return done, receive, np.concatenate([self.of(r) for r in range(self.size)])

    def all_gather_v(self) -> _Outcome:
        counts = [self.uneven(rank, 0) for rank in range(self.size)]
        places = _places(counts, gap=2)
        receive = self.room(places[-1] + counts[-1])
        expected = receive.copy()
        for rank in range(self.size):
            expected[places[rank] : places[rank] + counts[rank]] = self.of(rank, counts[rank])
        done = self.call(
            "all_gather_v",
            self.of(self.rank, counts[self.rank]),
            ctypes.c_uint64(counts[self.rank]),
            receive,
            _array(counts),
            _array(places),
            self.dtype,
        )
        return done, receive, expected

    def all_to_all_v(self) -> _Outcome:
        send_counts = [[self.uneven(a, b) for b in range(self.size)] for a in range(self.size)]
        send_places = [_places(counts, gap=1) for counts in send_counts]
        receive_counts = [send_counts[a][self.rank] for a in range(self.size)]
        receive_places = _places(receive_counts, gap=5)
        receive = self.room(receive_places[-1] + receive_counts[-1])
        expected = receive.copy()
        sends = [self.of(a, send_places[a][-1] + send_counts[a][-1]) for a in range(self.size)]
        for a in range(self.size):
            start = send_places[a][self.rank]
            part = sends[a][start : start + receive_counts[a]]
            expected[receive_places[a] : receive_places[a] + receive_counts[a]] = part
        done = self.call(
            "all_to_all_v",
            sends[self.rank],
            _array(send_counts[self.rank]),
            _array(send_places[self.rank]),
            receive,
            _array(receive_counts),
            _array(receive_places),
            self.dtype,
        )
        return done, receive, expected

    # ---- from one rank to one other -------------------------------------------------------------

    def send(self) -> _Outcome:
        """From rank 0 to rank ``root``; the others look on."""
        data = self.of(0) if self.rank == 0 else self.room(self.count)
        done: dict[str, Any] = {"code": 0, "text": ""}
        if self.rank in (0, self.root):
            sends = self.rank == 0
            peer = self.root if sends else 0
            done = self.call("transfer", sends, data, ctypes.c_uint64(self.count), self.dtype, peer)
        return done, data, self.of(0) if self.rank in (0, self.root) else None


def _places(counts: list[int], gap: int) -> list[int]:
    """Displacements that leave room between the parts."""
    return [sum(counts[:i]) + gap * i for i in range(len(counts))]


def _array(numbers: list[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * len(numbers))(*numbers)
