"""A batch to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor

from shufflenet_fn.training.step import Examples


def to_device(images: Tensor, labels: Tensor, device: torch.device) -> Examples:
    """The batch on ``device``; on the CPU it is where it was.

    From ordinary memory a device cannot copy by itself: the host would wait for all that is queued before
    the copy, a whole step. So the batch goes through page-locked memory, which torch keeps until it is done.
    """
    if device.type == "cpu":
        return Examples(images, labels)
    if images.is_contiguous(memory_format=torch.channels_last):
        # As it lies, in one piece: torch_npu would gather another order in ordinary memory first.
        nhwc = images.permute(0, 2, 3, 1)
        return Examples(_sent(nhwc, device).permute(0, 3, 1, 2), _sent(labels, device))
    return Examples(_sent(images, device), _sent(labels, device))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
