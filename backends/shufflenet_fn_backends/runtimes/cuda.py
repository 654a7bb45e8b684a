"""NVIDIA and AMD GPUs, through torch.cuda."""

from __future__ import annotations

import torch

from shufflenet_fn_backends.errors import DeviceError
from shufflenet_fn_backends.runtimes.base import Runtime


def runtime() -> Runtime:
    """The CUDA runtime.

    Raises:
        DeviceError: this torch is not built for CUDA, or it finds no device.
    """
    reason = unavailable_reason()
    if reason:
        raise DeviceError(reason)
    return Runtime(
        name="cuda",
        dist_backend="nccl",
        memory_format=torch.channels_last,
        device_count=torch.cuda.device_count,
        set_device=torch.cuda.set_device,
        synchronize=torch.cuda.synchronize,
        memory_peak=torch.cuda.max_memory_allocated,
    )


def unavailable_reason() -> str | None:
    """Why CUDA cannot be used here, or ``None`` when it can."""
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"device cuda is not available: torch {torch.__version__} is a build without CUDA. "
            "Install a CUDA build of torch, or use --device cpu."
        )
    if not torch.cuda.is_available():
        return (
            "device cuda is not available: torch finds no CUDA device or driver on this machine. "
            "Check nvidia-smi, or use --device cpu."
        )
    return None
