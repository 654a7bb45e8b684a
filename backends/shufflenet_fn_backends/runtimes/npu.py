"""Ascend NPUs, through torch_npu. The only module that imports it, and only when asked to."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from shufflenet_fn_backends.errors import DeviceError
from shufflenet_fn_backends.runtimes.base import Runtime


def runtime() -> Runtime:
    """The Ascend runtime.

    Raises:
        DeviceError: torch_npu is not installed, does not load, or finds no NPU.
    """
    npu = _load()
    return Runtime(
        name="npu",
        dist_backend="hccl",
        memory_format=torch.contiguous_format,
        device_count=npu.device_count,
        set_device=npu.set_device,
        synchronize=npu.synchronize,
        memory_peak=npu.max_memory_allocated,
    )


def unavailable_reason() -> str | None:
    """Why no NPU can be used here, or ``None`` when one can."""
    try:
        _load()
    except DeviceError as error:
        return str(error)
    return None


def _load() -> Any:
    if importlib.util.find_spec("torch_npu") is None:
        raise DeviceError(
            "device npu is not available: the package torch_npu is not installed. Install the one for "
            f"your torch (torch {torch.__version__} needs torch_npu of the same minor version) beside "
            "a CPU build of torch, or use --device cpu."
        )
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"device npu is not available: torch_npu does not load ({error}). Source CANN's "
            "set_env.sh before starting Python and check that torch and torch_npu have the same minor "
            "version, or use --device cpu."
        ) from error
    npu: Any = getattr(torch, "npu")  # noqa: B009  torch_npu adds it; no type checker knows it
    if not npu.is_available() or npu.device_count() == 0:
        raise DeviceError(
            "device npu is not available: torch_npu is installed but finds no NPU. Check npu-smi info "
            "and ASCEND_RT_VISIBLE_DEVICES, or use --device cpu."
        )
    return npu
