"""Tensors that are made once and used by every later step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor


def outside_transforms(make: Callable[[], Tensor]) -> Tensor:
    """``make()``, called in none of the transforms and modes that its caller may be in.

    A tensor made under ``torch.func.grad`` belongs to that call, and one made in inference mode refuses
    autograd: neither may be kept. Transforms and modes are a thread's own, so another thread makes it.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
