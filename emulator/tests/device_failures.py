"""Hearing of what failed on the device, for tests in this process and in processes of their own."""

from __future__ import annotations

import time

import torch


def synchronize() -> None:
    """Wait for the device, and hear of a launch that failed.

    torch_npu's thread that launches empties its queue before it notes the failure
    (``Repository::ReadQueue`` in its NPUQueue.cpp): a synchronisation between the two finds nothing wrong,
    and the next one, which here comes when the thread is past that, does.
    """
    torch.npu.synchronize()  # type: ignore[attr-defined]
    time.sleep(0.2)
    torch.npu.synchronize()  # type: ignore[attr-defined]
