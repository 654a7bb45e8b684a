"""Stopping a process at a named operation on checkpoints, so that it can be killed exactly there.

The product knows nothing of this: the drill's own entry calls ``arm`` before it runs the command line.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn.io import RealDisk

CONTROL = "SHUFFLENET_FN_DRILL"
"""The variable that names the folder by which a drill and its processes talk."""

KINDS = ("make_folder", "write", "flush", "rename", "unlink", "remove_folder")
_POINT, _REACHED, _TRACE = "point.json", "reached", "trace"


class Point(NamedTuple):
    """The ``number``-th time, from 1, that a process does ``operation`` (as ``name_of`` has it).

    ``moment``: ``before`` it, ``after`` it, or ``half``, which of a write is when half of it is done.
    """

    operation: str
    number: int
    moment: str


class Control:
    """The folder's files, from the side of the drill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, point: Point | None) -> None:
        """Have processes that start from now on stop at ``point``; the first that gets there does."""
        for name in (_POINT, _REACHED):
            (self.folder / name).unlink(missing_ok=True)
        if point is not None:
            aside = self.folder / f"{_POINT}.new"
            aside.write_text(json.dumps(point))
            aside.rename(self.folder / _POINT)

    def reached(self) -> int | None:
        """The process that waits at the point, stopped."""
        try:
            text = (self.folder / _REACHED).read_text()
        except FileNotFoundError:
            return None
        return int(text) if text.endswith("\n") else None

    def operations(self) -> list[str]:
        """Every operation that any process has done so far, once each."""
        trace = self.folder / _TRACE
        return sorted(set(trace.read_text().splitlines())) if trace.exists() else []


def name_of(kind: str, path: Path) -> str:
    """``write weights.safetensors``, ``rename .step.partial``: the same for every step."""
    return f"{kind} {re.sub(r'step-[0-9]{8,}', 'step', path.name)}"


def arm(folder: Path) -> None:
    """Write down the operations of this process, and stop at the point that ``folder`` asks for."""
    try:
        point = Point(*json.loads((folder / _POINT).read_text()))
    except FileNotFoundError:
        point = None
    counts: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    for kind in KINDS:
        setattr(RealDisk, kind, _watched(kind, getattr(RealDisk, kind), folder, point, counts))


def _watched(
    kind: str,
    real: Callable[..., None],
    folder: Path,
    point: Point | None,
    counts: defaultdict[str, Iterator[int]],
) -> Callable[..., None]:
    def operation(disk: RealDisk, path: Path, *rest: Any) -> None:
        name = name_of(kind, path)
        _append(folder / _TRACE, name)
        here = point is not None and (name, next(counts[name])) == point[:2]
        moment = point.moment if point is not None and here else None
        if moment == "half" and kind == "write":
            real(disk, path, rest[0][: len(rest[0]) // 2])
        if moment in ("before", "half"):
            _stop(folder)
        real(disk, path, *rest)
        if moment == "after":
            _stop(folder)

    return operation


def _append(path: Path, line: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def _stop(folder: Path) -> None:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(folder / _REACHED, flags)
    except FileExistsError:  # another process was there first
        return
    os.write(file, f"{os.getpid()}\n".encode())
    os.close(file)
    os.kill(os.getpid(), signal.SIGSTOP)
