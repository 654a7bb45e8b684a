"""One rank: a process that does what lines on its standard input ask for. Needs numpy alone.

A line is JSON, ``{"do": name, ...}``; the answer is a line of JSON as well. Started by ``ranks.py`` as
``python worker.py LIBRARY RANK SIZE``.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

INT8, INT16, INT32, FLOAT16, FLOAT32, INT64 = 0, 1, 2, 3, 4, 5
UINT64, UINT8, UINT16, UINT32, FLOAT64, BFLOAT16 = 6, 7, 8, 9, 10, 11
SUM, PRODUCT, MAX, MIN = 0, 1, 2, 3
WITH_NAN = 7777
"""The seed whose floating-point values have NaN among them, elsewhere on each rank."""

# numpy has no bfloat16: its bits, as integers.
KINDS = {
    INT8: np.int8,
    INT16: np.int16,
    INT32: np.int32,
    FLOAT16: np.float16,
    FLOAT32: np.float32,
    INT64: np.int64,
    UINT64: np.uint64,
    UINT8: np.uint8,
    UINT16: np.uint16,
    UINT32: np.uint32,
    FLOAT64: np.float64,
    BFLOAT16: np.uint16,
}


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, ties to even. Finite values only."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def values(dtype: int, count: int, seed: int, rank: int) -> np.ndarray:
    """What a rank contributes; every rank can tell what every other does."""
    random = np.random.default_rng([seed, rank])
    if dtype in (FLOAT16, FLOAT32, FLOAT64):
        drawn = random.normal(size=count).astype(KINDS[dtype])
        if seed == WITH_NAN:
            drawn[rank::5] = np.nan
        return drawn
    if dtype == BFLOAT16:
        return to_bfloat16(random.normal(size=count))
    info = np.iinfo(KINDS[dtype])
    return random.integers(info.min, info.max, size=count, dtype=KINDS[dtype], endpoint=True)


def reduced(dtype: int, op: int, contributions: list[np.ndarray]) -> np.ndarray:
    """Rank after rank, rounded after each; integers wrap around."""
    functions = {SUM: np.add, PRODUCT: np.multiply, MAX: np.maximum, MIN: np.minimum}
    total = contributions[0].copy()
    for other in contributions[1:]:
        with np.errstate(over="ignore"):
            if dtype == FLOAT16:
                wide = functions[op](total.astype(np.float32), other.astype(np.float32))
                total = wide.astype(np.float16)
            else:
                total = functions[op](total, other)
    return total


class Rank:
    """What this process holds: the library and the communicators it made."""

    def __init__(self, library: str, rank: int, size: int) -> None:
        self.library = ctypes.CDLL(library)
        self.library.test_text.restype = ctypes.c_char_p
        for name in ("root_bytes", "launches", "bytes_read", "bytes_written"):
            getattr(self.library, f"test_{name}").restype = ctypes.c_uint64
        self.library.test_overflow.restype = ctypes.c_bool
        self.rank, self.size = rank, size
        self.handles: dict[str, ctypes.c_void_p] = {}
        self.library.test_device(rank)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.pop("do")
        handler: Callable[..., dict[str, Any]] = getattr(self, f"do_{name}")
        return handler(**request)

    def call(self, name: str, *arguments: Any) -> dict[str, Any]:
        """The code and the text of a function that takes a communicator, or whatever else."""
        code = int(getattr(self.library, f"test_{name}")(*arguments))
        return {"code": code, "text": self.library.test_text().decode() if code else ""}

    def do_setting(self, name: str, values: list[Any]) -> dict[str, Any]:
        arguments = [value.encode() if isinstance(value, str) else value for value in values]
        if name == "fault":
            arguments[1] = ctypes.c_uint64(arguments[1])
        getattr(self.library, f"test_{name}")(*arguments)
        return {"code": 0}

    def do_root(self) -> dict[str, Any]:
        root = ctypes.create_string_buffer(self.library.test_root_bytes())
        return {**self.call("make_root", root), "root": root.raw.hex()}

    def do_create(
        self,
        root: str,
        name: str = "world",
        size: int | None = None,
        rank: int | None = None,
        exec_timeout: int = -1,
    ) -> dict[str, Any]:
        handle = ctypes.c_void_p()
        done = self.call(
            "create",
            bytes.fromhex(root),
            self.size if size is None else size,
            self.rank if rank is None else rank,
            name.encode(),
            ctypes.c_int64(exec_timeout),
            ctypes.byref(handle),
        )
        if done["code"] == 0:
            self.handles[name] = handle
        return done

    def do_create_sub(self, parent: str, name: str, members: list[int], id: int) -> dict[str, Any]:
        if self.rank not in members:
            return {"code": 0}
        handle = ctypes.c_void_p()
        array = (ctypes.c_uint32 * len(members))(*members)
        done = self.call(
            "create_sub",
            self.handles[parent],
            array,
            len(members),
            ctypes.c_uint64(id),
            members.index(self.rank),
            ctypes.byref(handle),
        )
        if done["code"] == 0:
            self.handles[name] = handle
        return done

    def do_on(self, function: str, comm: str = "world", values: list[Any] | None = None) -> dict[str, Any]:
        """Any function of a communicator and numbers."""
        return self.call(function, self.handles[comm], *(values or []))

    def do_counted(self, name: str) -> dict[str, Any]:
        counted = [
            int(getattr(self.library, f"test_{what}")(name.encode()))
            for what in ("launches", "bytes_read", "bytes_written")
        ]
        return {"code": 0, "counted": counted}

    def do_overflow(self) -> dict[str, Any]:
        return {"code": 0, "overflow": bool(self.library.test_overflow())}

    def do_sum(self, values: list[float], comm: str = "world") -> dict[str, Any]:
        """The sum over ranks of float16 values, as text: JSON has no infinity."""
        data = np.array(values, np.float16)
        pointer = data.ctypes.data_as(ctypes.c_void_p)
        count = ctypes.c_uint64(len(data))
        done = self.call("all_reduce", self.handles[comm], pointer, pointer, count, FLOAT16, SUM)
        return {**done, "values": [str(float(value)) for value in data]}

    def do_collective(
        self, function: str, comm: str = "world", members: list[int] | None = None, **settings: Any
    ) -> dict[str, Any]:
        """A collective on values that every rank knows, compared with what numpy makes of them."""
        from collectives import run

        ranks = list(range(self.size)) if members is None else members
        if self.rank not in ranks:
            return {"code": 0, "wrong": ""}
        return run(self, function, self.handles[comm], ranks.index(self.rank), len(ranks), **settings)


def main() -> None:
    library, number, size = sys.argv[1:]
    rank = Rank(library, int(number), int(size))
    for line in sys.stdin:
        print(json.dumps(rank.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
