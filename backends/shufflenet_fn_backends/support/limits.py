"""Limits of the system: errors as one message that names the limit and how to raise it, and cgroups."""

from __future__ import annotations

import errno
import math
import os
import re
import resource
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

from shufflenet_fn_backends.support.errors import UserError

_PROC: Final = Path("/proc/self")

THREADS: Final = "another thread or process"
FILES: Final = "another open file"
MEMORY: Final = "more memory"

_BY_NUMBER: Final = MappingProxyType(
    {errno.EAGAIN: THREADS, errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOMEM: MEMORY}
)
_BY_TEXT: Final = (
    (THREADS, r"can't start new thread|pthread_create|Resource temporarily unavailable"),
    (FILES, r"Too many open files"),
    (
        MEMORY,
        r"can't allocate memory|Cannot allocate memory|not enough memory|std::bad_alloc|"
        r"failed to map segment",
    ),
)
_FIXES: Final = MappingProxyType(
    {
        THREADS: "or start fewer: --workers, --threads and --devices",
        FILES: "or end programs of this user that hold files",
        MEMORY: "or use less: a smaller --batch-size, fewer --workers or --devices",
    }
)


class LimitReached(UserError):
    """The system refused threads, processes, files or memory."""


def limit_reached(error: BaseException) -> LimitReached | None:
    """Return the message for ``error`` if it, or what caused it, is a limit of the system, else ``None``."""
    if isinstance(error, LimitReached):
        return error
    refused = None
    if isinstance(error, UserError):
        # Its advice, such as to make a folder writable, does not help. EAGAIN is also a lock that is held.
        wrapped = isinstance(error.__cause__, OSError) and error.__cause__.errno != errno.EAGAIN
        return limit_reached(error.__cause__) if wrapped and error.__cause__ else None
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError):
        refused = MEMORY
    elif isinstance(error, OSError) and error.errno is not None:
        # Other texts of EAGAIN are of streams that do not block.
        known = error.strerror == os.strerror(error.errno)
        refused = _BY_NUMBER.get(error.errno) if known else None
    elif isinstance(error, (OSError, RuntimeError, ImportError)):
        refused = next((kind for kind, pattern in _BY_TEXT if re.search(pattern, said, re.IGNORECASE)), None)
    return None if refused is None else refusal(refused, said)


def refusal(refused: str, said: str) -> LimitReached:
    """Return the error that the system refuses ``refused``, with the limits that this process has."""
    limits = "; ".join(_limits(refused)) or "none known"
    return LimitReached(
        f"the system refuses {refused} ({said}). The limits here: {limits}. Raise the one that is reached, "
        f"{_FIXES[refused]}."
    )


def check_threads(count: int) -> None:
    """Raise ``LimitReached`` unless ``count`` more threads can run at once.

    OpenMP ends the process with a line of its own when it cannot start one.
    """
    end, threads = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        raise refusal(THREADS, f"{count} are needed, {len(threads)} can be started") from error
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _limits(refused: str) -> list[str]:
    """Return the limits that are set, each with its value and name."""
    if refused == FILES:
        return [
            *_of_process(resource.RLIMIT_NOFILE, "open files a process (RLIMIT_NOFILE: ulimit -n)"),
            *_of_kernel("fs/file-max", "on the machine (sysctl fs.file-max)"),
        ]
    memory = [
        *_of_process(resource.RLIMIT_AS, "bytes of memory a process (RLIMIT_AS: ulimit -v)"),
        *_of_kernel("vm/max_map_count", "maps of memory a process (sysctl vm.max_map_count)"),
    ]
    if refused == MEMORY:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [*memory, f"{total:,} bytes of memory of the machine"]
    what = "threads and processes of this user (RLIMIT_NPROC: ulimit -u)"
    pids = group_limit("pids", "pids.max")
    return [
        *(_of_process(resource.RLIMIT_NPROC, what) if os.geteuid() else ()),  # root is exempt
        *([] if pids is None else [f"{pids:,} in this container (pids.max: docker --pids-limit)"]),
        *_of_kernel("kernel/threads-max", "on the machine (sysctl kernel.threads-max)"),
        *memory,
    ]


def _of_process(which: int, text: str) -> list[str]:
    soft, _ = resource.getrlimit(which)
    return [] if soft == resource.RLIM_INFINITY else [f"{soft:,} {text}"]


def _of_kernel(name: str, text: str) -> list[str]:
    try:
        return [f"{int(Path('/proc/sys', name).read_text()):,} {text}"]
    except (OSError, ValueError):
        return []


# ---- cgroups of Linux's version 1, version 2 and both at once ----
# Docker, Kubernetes and Slurm limit CPU time by quotas, which neither the affinity of a process nor Python's
# and torch's counts of cores show.


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


def group_limit(controller: str, name: str, proc: Path = _PROC) -> int | None:
    """Return the smallest limit in the files ``name`` of this process's cgroups; ``None`` without any."""
    words = [_words(folder / name) for folder in _groups(controller, proc)]
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
