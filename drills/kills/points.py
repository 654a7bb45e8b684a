"""Stops a process at a named operation on checkpoints, so that it can be killed exactly there.

The product has no code for this: the drill's own entry calls ``arm`` before it runs the command line.
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

from shufflenet_fn.io import Disk

CONTROL = "SHUFFLENET_FN_DRILL"
"""Environment variable with the control folder, through which a drill and its processes communicate."""

KINDS = ("make_folder", "write", "flush", "rename", "unlink", "remove_folder")
_POINT, _REACHED, _TRACE = "point.json", "reached", "trace"


class Point(NamedTuple):
    """The ``number``-th time, from 1, that a process does ``operation`` (as ``name_of`` has it).

    ``moment``: ``before`` it, ``after`` it, or ``half``: when half of the bytes of a write are written.
    """

    operation: str
    number: int
    moment: str


class Control:
    """The drill's access to the files of the control folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, point: Point | None) -> None:
        """Make processes that start from now on stop at ``point``. Only the first to reach it stops."""
        for name in (_POINT, _REACHED):
            (self.folder / name).unlink(missing_ok=True)
        if point is not None:
            aside = self.folder / f"{_POINT}.new"
            aside.write_text(json.dumps(point))
            aside.rename(self.folder / _POINT)

    def reached(self) -> int | None:
        """Return the process that is stopped at the point; ``None`` if there is none."""
        try:
            text = (self.folder / _REACHED).read_text()
        except FileNotFoundError:
            return None
        return int(text) if text.endswith("\n") else None

    def operations(self) -> list[str]:
        """Return the distinct operations that processes have done so far."""
        trace = self.folder / _TRACE
        return sorted(set(trace.read_text().splitlines())) if trace.exists() else []


def name_of(kind: str, path: Path) -> str:
    """Return a name that is the same for every step, such as ``write weights.safetensors``."""
    return f"{kind} {re.sub(r'step-[0-9]{8,}', 'step', path.name)}"


def arm(folder: Path) -> None:
    """Record the operations of this process, and stop at the point that ``folder`` specifies."""
    try:
        point = Point(*json.loads((folder / _POINT).read_text()))
    except FileNotFoundError:
        point = None
    counts: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    for kind in KINDS:
        setattr(Disk, kind, _watched(kind, getattr(Disk, kind), folder, point, counts))


def _watched(
    kind: str,
    real: Callable[..., None],
    folder: Path,
    point: Point | None,
    counts: defaultdict[str, Iterator[int]],
) -> Callable[..., None]:
    def operation(disk: Disk, path: Path, *rest: Any) -> None:
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
