"""The settings of torch_npu that the network needs, and a probe of the one that would go wrong unseen."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from shufflenet_fn_backends.errors import DeviceError

_EPS = 0.25


def set_up(npu: Any) -> tuple[str, ...]:
    """Settle compile mode and formats of the current device, check batch norm, and say what holds.

    Raises:
        DeviceError: batch norm does not return the inverse standard deviation.
    """
    # With just-in-time compilation, the default of chips of the first generation, operators go the older
    # way, in which batch norm returns the variance where the inverse standard deviation is expected.
    npu.set_compile_mode(jit_compile=False)
    # Tensors stay NCHW: what is computed must not depend on which operator saw a tensor first. On by
    # default only on chips of the first generation.
    npu.config.allow_internal_format = False
    # torch_npu warns that it does what it was just told.
    warnings.filterwarnings("ignore", "Cannot create tensor with internal format")
    check_batch_norm(torch.device("npu"))
    hf32 = "allowed (torch_npu's default)" if npu.conv.allow_hf32 else "not allowed"
    return (
        "npu: precompiled operators (jit_compile=False), NCHW formats only; HF32 in float32 convolutions "
        f"{hf32}",
    )


def check_batch_norm(device: torch.device) -> None:
    """Raise ``DeviceError`` unless batch norm returns 1/√(var+ε) as its third result on ``device``."""
    values = [-1.0, 1.0, -3.0, 3.0]  # mean 0, variance 5
    x = torch.tensor(values, device=device).reshape(4, 1, 1, 1)
    ones = torch.ones(1, device=device)
    _, _, found = torch.native_batch_norm(
        x, ones, torch.zeros_like(ones), None, None, True, 0.0, _EPS
    )
    expected = (sum(v * v for v in values) / len(values) + _EPS) ** -0.5
    if abs(float(found) - expected) > 0.01 * expected:
        raise DeviceError(
            f"batch norm on {device} returns {float(found):.4g} where the inverse standard deviation, "
            f"{expected:.4g}, is expected: training would compute wrong gradients and statistics. "
            "Unset whatever switches jit_compile on in torch_npu, or update torch_npu and CANN."
        )
