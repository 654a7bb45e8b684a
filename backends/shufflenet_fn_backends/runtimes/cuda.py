"""NVIDIA and AMD GPUs, through torch.cuda."""

from __future__ import annotations

import os

import torch
from torch.profiler import ProfilerActivity

from shufflenet_fn_backends.runtimes.base import (
    Half,
    Runtime,
    deterministic_operators,
    device_memory,
    profiling,
)
from shufflenet_fn_backends.support.errors import DeviceError


def runtime() -> Runtime:
    """Return the CUDA runtime.

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
        chip=torch.cuda.get_device_name,
        versions=_versions,
        dtypes=_dtypes,
        half=_half,
        set_device=torch.cuda.set_device,
        synchronize=torch.cuda.synchronize,
        memory=lambda: device_memory(torch.cuda),
        rng_state=torch.cuda.get_rng_state,
        set_rng_state=torch.cuda.set_rng_state,
        profiler=profiling((ProfilerActivity.CPU, ProfilerActivity.CUDA)),
        deterministic=_deterministic,
    )


def unavailable_reason() -> str | None:
    """Return why CUDA cannot be used here, or ``None`` if it can."""
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


def _versions() -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": None if cudnn is None else str(cudnn),
    }


def _dtypes() -> tuple[torch.dtype, ...]:
    narrow = (torch.bfloat16,) if torch.cuda.is_bf16_supported() else ()
    return (torch.float64, torch.float32, torch.float16, *narrow)


def _half() -> Half:
    if torch.cuda.is_bf16_supported():
        return Half(torch.bfloat16, f"{torch.cuda.get_device_name()} computes in bfloat16")
    return Half(torch.float16, f"{torch.cuda.get_device_name()} has no bfloat16")


def _deterministic() -> tuple[str, ...]:
    # cuBLAS reads it at its first use (cuBLAS documentation, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    workspace = os.environ["CUBLAS_WORKSPACE_CONFIG"]
    return (f"deterministic: {deterministic_operators()}, CUBLAS_WORKSPACE_CONFIG={workspace}",)
