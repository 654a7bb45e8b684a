"""Errors that come from a limit of the system, as one message that names the limit and how to raise it."""

from __future__ import annotations

import errno
import os
import re
import resource
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Final

from shufflenet_fn_backends.support.cgroups import group_limit
from shufflenet_fn_backends.support.errors import UserError

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
    pids = group_limit("pids", ("pids.max",))
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
