"""What differs between generations of Ascend chips: bfloat16, and how an overflow shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn_backends.runtimes.base import Half, Overflow

# Source: SocVersion in torch_npu (torch_npu/csrc/core/npu/NpuVariables.cpp), whose IsBF16Supported is
# "Ascend910B1 or newer". Ascend910B, without a number, is of the first generation and older than 910B1.
_FIRST_GENERATION = re.compile(r"Ascend910(PremiumA|ProA|A|ProB|B)|Ascend310P?\d*")

_STATUS_SIZE = 8
"""Elements of the tensor that the status operators take (op-plugin, FloatStatusKernelNpu.cpp)."""


def has_bfloat16(soc: str) -> bool:
    """Whether the chip that calls itself ``soc``, such as ``Ascend910B1``, computes in bfloat16."""
    return _FIRST_GENERATION.fullmatch(soc) is None


def dtypes(soc: str) -> tuple[torch.dtype, ...]:
    """What convolutions and batch norms take on this chip; float64 on none."""
    narrow = (torch.bfloat16,) if has_bfloat16(soc) else ()
    return (torch.float32, torch.float16, *narrow)


def half(soc: str) -> Half:
    """The narrow dtype for training on this chip."""
    if has_bfloat16(soc):
        return Half(torch.bfloat16, f"{soc} computes in bfloat16")
    return Half(torch.float16, f"{soc} has no bfloat16")


def overflow(npu: Any, torch_npu: Any) -> Overflow | None:
    """The float status register of the current device; ``None`` where infinities are computed instead.

    Chips of the first generation saturate: 65504 where IEEE arithmetic has infinity, 0 where it has NaN, so
    that no gradient tells of an overflow. They set a flag. (Newer ones do the same if asked to by
    INF_NAN_MODE_ENABLE=0 and INF_NAN_MODE_FORCE_DISABLE=1.) ``torch_npu.npu.amp.GradScaler`` reads the
    flag on the host; here it stays on the device, where the step decides.
    """
    if npu.utils.is_support_inf_nan():
        return None
    return Overflow(
        clear=_clearing(torch_npu.npu_clear_float_status),
        raised=_reading(torch_npu.npu_get_float_status),
    )


def _clearing(operator: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    def clear() -> None:
        operator(torch.zeros(_STATUS_SIZE, device="npu"))

    return clear


def _reading(operator: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    def raised() -> Tensor:
        # Filled in place and returned by chips of the first generation, returned anew (int32) by others.
        status = operator(torch.zeros(_STATUS_SIZE, device="npu"))
        return (status[0] != 0).to(torch.float32)

    return raised
