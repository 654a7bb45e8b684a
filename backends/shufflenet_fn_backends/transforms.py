"""Which ``torch.func`` transforms are active. (torch has no public way to ask.)"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad


def several_reverse_passes() -> bool:
    """Return whether forward mode or a derivative of a derivative is being computed, or may be."""
    if torch.compiler.is_compiling():
        return True  # Dynamo does not let a program look
    keys = _active()
    return (
        TransformType.Jvp in keys
        or keys.count(TransformType.Grad) > 1
        or forward_ad._current_level >= 0
    )


def batched_or_forward() -> bool:
    """Return whether ``vmap`` or forward mode is active, or may be: PyTorch's own rules are then applied."""
    if torch.compiler.is_compiling():
        return True
    keys = _active()
    return TransformType.Vmap in keys or TransformType.Jvp in keys or forward_ad._current_level >= 0


def _active() -> list[TransformType]:
    return [interpreter.key() for interpreter in get_interpreter_stack() or ()]


def outside_transforms(make: Callable[[], Tensor]) -> Tensor:
    """``make()``, called in none of the transforms and modes that its caller may be in.

    A tensor made under ``torch.func.grad`` belongs to that call, and one made in inference mode refuses
    autograd: neither may be kept. Transforms and modes are a thread's own, so another thread makes it.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
