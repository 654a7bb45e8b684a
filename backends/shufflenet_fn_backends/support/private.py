"""All private PyTorch names that this project uses, each with the reason.

``tests/backends/test_private.py`` checks their expected behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _AutoDispatchBelowAutograd as below_autograd
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

__all__ = [
    "TransformType",
    "active_transforms",
    "below_autograd",
    "forward_mode",
    "mark_constant",
    "pytree",
    "transforms_active",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def active_transforms() -> list[TransformType]:
    """Return the ``torch.func`` transforms around the caller, outermost first."""
    return [interpreter.key() for interpreter in get_interpreter_stack() or ()]


def forward_mode() -> bool:
    """Return whether forward-mode differentiation is active.

    The public ``unpack_dual`` does not find a tangent below a ``vmap``; the level covers every nesting.
    """
    return forward_ad._current_level >= 0


def transforms_active() -> bool:
    """Return whether any ``torch.func`` transform is active; cheaper than ``active_transforms``."""
    return torch._C._are_functorch_transforms_active()


def mark_constant(function: _Function) -> _Function:
    """Make Dynamo treat results of ``function`` as constants if all arguments are plain tuples and integers.

    Otherwise Dynamo would trace the bookkeeping integer by integer and warn about caches. The mark is all
    that ``torch.compiler.assume_constant_result`` sets, but that imports Dynamo, which takes a second at
    every start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


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
