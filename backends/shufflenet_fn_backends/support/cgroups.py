"""Limits that cgroups set to this process: of Linux's version 1, version 2 and both at once.

Docker, Kubernetes and Slurm limit CPU time by quotas, which neither the affinity of a process nor Python's
and torch's counts of cores show.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_PROC: Final = Path("/proc/self")


def usable_cores() -> int:
    """Return how many cores this process can keep busy, by affinity, cpusets and quotas, rounded up."""
    return max(1, math.ceil(min(affinity_cores(), cpu_quota())))


def affinity_cores() -> int:
    """Return the number of cores that this process may run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(proc: Path = _PROC) -> float:
    """Return how many cores' time the cgroups of this process allow; infinity without a quota."""
    quotas = [math.inf]
    for folder in _groups("cpu", proc):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        # "max" or -1: no quota.
        if len(quota) == 2 and quota[0].isdigit() and int(quota[1]):
            quotas.append(int(quota[0]) / int(quota[1]))
    return min(quotas)


def group_limit(controller: str, names: tuple[str, ...], proc: Path = _PROC) -> int | None:
    """Return the smallest limit in files ``names`` of this process's cgroups; ``None`` without any."""
    words = [_words(folder / name) for folder in _groups(controller, proc) for name in names]
    return min((int(word[0]) for word in words if word and word[0].isdigit()), default=None)


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroups with ``controller``, and of all their ancestors."""
    own = dict(_own_groups(proc / "cgroup"))
    for line in _lines(proc / "mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = f"{rest}  ".split(" ", 2)
        if kind == "cgroup2":
            group = own.get("")
        elif kind == "cgroup" and controller in options.strip().split(","):
            group = own.get(controller)
        else:
            continue
        root, mount = map(PurePosixPath, fields.split()[3:5])
        # A container may see only its own group, mounted as the root.
        below = PurePosixPath(group or "/")
        inside = below.relative_to(root) if below.is_relative_to(root) else PurePosixPath()
        if ".." in inside.parts:
            inside = PurePosixPath()
        for part in (inside, *inside.parents):
            yield Path(mount / part)


def _own_groups(path: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(path):
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, group  # "" is version 2's


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
