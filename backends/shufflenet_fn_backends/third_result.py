"""What ``torch.native_batch_norm`` returns as its third result: it differs between devices."""

from __future__ import annotations

import torch

from shufflenet_fn_backends.primitives import ThirdResult


def third_result(device: torch.device) -> ThirdResult:
    """Return what the third result is on ``device``; on an NPU it is measured once (``batch_norm_probe``).

    Raises:
        DeviceError: it is neither; the message has the numbers.
    """
    if device.type != "npu":
        return "invstd"
    from shufflenet_fn_backends.batch_norm_probe import measured

    kind: ThirdResult = measured(device)
    return kind
