"""The settings of torch_npu that the network needs, and the probe of batch norm."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from shufflenet_fn_backends.batch_norm import third_result


def set_up(npu: Any) -> tuple[str, ...]:
    """Set compile mode and formats of the current device, and probe its batch norm. Return notes for the log.

    Raises:
        DeviceError: batch norm returns neither the variance nor the inverse standard deviation.
    """
    # Without it, chips of the first generation compile operators just in time by the older interface (aclop).
    npu.set_compile_mode(jit_compile=False)
    # Keep tensors in NCHW: results must not depend on which operator used a tensor first. Internal formats
    # are on by default only on chips of the first generation.
    npu.config.allow_internal_format = False
    # torch_npu warns about the setting that was just made.
    warnings.filterwarnings("ignore", "Cannot create tensor with internal format")
    saved = {"var": "variance", "invstd": "inverse standard deviation"}
    kind = saved[third_result(torch.device("npu", npu.current_device()))]
    hf32 = "allowed (torch_npu's default)" if npu.conv.allow_hf32 else "not allowed"
    return (
        "npu: precompiled operators (jit_compile=False), NCHW formats only; HF32 in float32 convolutions "
        f"{hf32}; batch norm saves the {kind}",
    )
