"""The CPU runtime. Any number of processes share the cores."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from shufflenet_fn_backends.runtimes.base import Half, Memory, Runtime, deterministic_operators, profiling
from shufflenet_fn_backends.support.limits import usable_cores as usable_cores

ALLOCATOR_SETTINGS = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)
# From malloc.h of glibc. A trim threshold of -1 disables trimming (mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def runtime() -> Runtime:
    return Runtime(
        name="cpu",
        dist_backend="gloo",
        memory_format=torch.channels_last,
        shares=True,
        device_count=usable_cores,
        chip=lambda: platform.machine() or "CPU",
        versions=lambda: {"torch": str(torch.__version__)},
        dtypes=lambda: (torch.float64, torch.float32, torch.float16, torch.bfloat16),
        half=lambda: Half(None, "CPUs differ in what they gain by less than float32"),
        set_device=lambda index: None,
        synchronize=lambda: None,
        memory=_memory,
        rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
        profiler=profiling((ProfilerActivity.CPU,)),
        deterministic=lambda: (f"deterministic: {deterministic_operators()}",),
        tune=lambda: (keep_freed_memory(),),
    )


def keep_freed_memory() -> str:
    """Make the C library keep freed memory in this process. Return a note for the log.

    By default, glibc maps each block above a threshold (at most 32 MiB) from the system, returns it when it
    is freed, and trims its heap. Each activation then causes page faults in each step, a quarter of the
    step's time. The user's own settings (``MALLOC_*``, ``GLIBC_TUNABLES``, an allocator in ``LD_PRELOAD``)
    take precedence.
    """
    own = [name for name in ALLOCATOR_SETTINGS if os.environ.get(name)]
    if own:
        return f"memory: the allocator is as set by {', '.join(own)}"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        return "memory: freed memory goes back to the system, this C library has no other way"
    return "memory: freed memory is kept for the next step"


def _memory() -> Memory:
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    resident = _resident_set() or peak
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # The kernel updates the two at different times, so the peak may lag behind.
    return Memory(allocated=resident, reserved=resident, peak=max(peak, resident), total=total)


def _resident_set() -> int | None:
    """Return the resident set of the process in bytes; ``None`` on systems without /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
