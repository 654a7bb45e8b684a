"""Keeping torch's operators in the thread that calls them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch


def one_thread_setter() -> Callable[[], None]:
    """A function that has OpenMP regions of torch that the calling thread opens run in it alone.

    Without it each reading thread whose operator torch runs in parallel, as where it has no SIMD kernel for
    uint8, starts a team of compute threads of its own: n readers of n cores would be n * n threads.
    ``torch.set_num_threads`` is no cure, as it would hold for the threads that train as well;
    ``omp_set_num_threads`` holds for the calling thread. It costs about as much as any call, so it may be
    called again and again.

    Where torch was built without OpenMP there are no such teams, and the function does nothing.
    """
    # A lookup in torch's own library finds the runtime that it is linked to, of several that may be loaded.
    set_num_threads = getattr(ctypes.CDLL(torch._C.__file__), "omp_set_num_threads", None)
    if set_num_threads is None:
        return _nothing

    def use_one_thread() -> None:
        torch.get_num_threads()  # torch sets the process's number when it first looks in a thread
        set_num_threads(1)

    return use_one_thread


def _nothing() -> None:
    pass
