"""The CPU: any number of processes share its cores."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import torch

from shufflenet_fn_backends.runtimes.base import Runtime

_ALLOCATOR_SETTINGS = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)
# malloc.h of glibc; a trim threshold of -1 is none at all (mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def usable_cores() -> int:
    """Cores that this process may run on (affinity and cpusets respected)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime() -> Runtime:
    return Runtime(
        name="cpu",
        dist_backend="gloo",
        memory_format=torch.channels_last,
        device_count=usable_cores,
        set_device=lambda index: None,
        synchronize=lambda: None,
        memory_peak=_peak_resident_set,
        tune=lambda: (keep_freed_memory(),),
    )


def keep_freed_memory() -> str:
    """Have the C library keep what is freed for the next allocation, in this process. Says what was done.

    glibc maps every block above a threshold of at most 32 MiB anew and gives it back when it is freed, and
    trims its heap, so each activation of each step costs its page faults again: a quarter of a step. The
    user's own settings (``MALLOC_*``, ``GLIBC_TUNABLES``, an allocator in ``LD_PRELOAD``) are left alone.
    """
    own = [name for name in _ALLOCATOR_SETTINGS if os.environ.get(name)]
    if own:
        return f"memory: the allocator is as set by {', '.join(own)}"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        return "memory: freed memory goes back to the system, this C library has no other way"
    return "memory: freed memory is kept for the next step"


def _peak_resident_set() -> int:
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
