"""Queries for active ``torch.func`` transforms, for which torch has no public API."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from shufflenet_fn_backends.support.private import TransformType, active_transforms, forward_mode


def several_reverse_passes() -> bool:
    """Return whether forward mode or a higher derivative is active, or may be."""
    if torch.compiler.is_compiling():
        return True  # under Dynamo the stack cannot be read
    keys = active_transforms()
    return TransformType.Jvp in keys or keys.count(TransformType.Grad) > 1 or forward_mode()


def batched_or_forward() -> bool:
    """Return whether ``vmap`` or forward mode is active, or may be. PyTorch then applies its own rules."""
    if torch.compiler.is_compiling():
        return True
    keys = active_transforms()
    return TransformType.Vmap in keys or TransformType.Jvp in keys or forward_mode()


def outside_transforms(make: Callable[[], Tensor]) -> Tensor:
    """Return ``make()``, called outside all transforms and modes of the caller.

    A tensor created under ``torch.func.grad`` is valid in that call only, and one created in inference mode
    cannot be used by autograd, so neither may be cached. Transforms and modes are local to a thread, so
    another thread calls ``make``.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
