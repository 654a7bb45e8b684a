"""Which ``torch.func`` transforms are active. (torch has no public way to ask.)"""

from __future__ import annotations

import torch
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
