"""Differences between generations of Ascend chips: bfloat16, overflows, groups of devices."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn_backends.runtimes.base import Half, Overflow
from shufflenet_fn_backends.support.errors import UsageError

# Source: SocVersion in torch_npu (torch_npu/csrc/core/npu/NpuVariables.cpp), whose IsBF16Supported is
# "Ascend910B1 or newer". Ascend910B, without a number, is of the first generation and older than 910B1.
# This is the class that HCCL's documents call "Atlas training series" (id 910).
_ATLAS_TRAINING = re.compile(r"Ascend910(PremiumA|ProA|A|ProB|B)")
_FIRST_GENERATION = re.compile(rf"{_ATLAS_TRAINING.pattern}|Ascend310P?\d*")
_GROUPS: Final = (range(4), range(4, 8))

_STATUS_SIZE = 8
"""Number of elements of the tensor for the status operators (op-plugin, FloatStatusKernelNpu.cpp)."""


def has_bfloat16(soc: str) -> bool:
    """Return whether the chip named ``soc``, for example ``Ascend910B1``, computes in bfloat16."""
    return _FIRST_GENERATION.fullmatch(soc) is None


def dtypes(soc: str) -> tuple[torch.dtype, ...]:
    """Return the dtypes of convolutions and batch norms on this chip. No chip has float64."""
    narrow = (torch.bfloat16,) if has_bfloat16(soc) else ()
    return (torch.float32, torch.float16, *narrow)


def half(soc: str) -> Half:
    """Return the 16-bit dtype for training on this chip."""
    if has_bfloat16(soc):
        return Half(torch.bfloat16, f"{soc} computes in bfloat16")
    return Half(torch.float16, f"{soc} has no bfloat16")


def is_atlas_training(soc: str) -> bool:
    """Return whether the chip is of the 910A class, the first training generation."""
    return _ATLAS_TRAINING.fullmatch(soc) is not None


def chip_of_this_machine() -> str | None:
    """Return the name of the first chip as ATC takes it, from npu-smi; ``None`` if it shows none.

    Source: hicann/ge at ffdcbc9, --soc_version.md: "Ascend" and the chip's name, or, on Atlas A3 and
    Ascend 950, the names of chip and NPU with "_" between.
    """
    text = ""
    for options in (["-l"], ["-t", "board", "-i", "ID", "-c", "0"], ["-t", "board", "-i", "ID"]):
        number = re.search(r"NPU ID\s*: (\d+)", text)
        command = ["npu-smi", "info", *(number[1] if number and o == "ID" else o for o in options)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            text += subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    chip, npu = (re.search(rf"{name} Name\s*: (\w*\d\w*)", text) for name in ("Chip", "NPU"))
    if chip is None:
        return None
    name = chip[1] if chip[1].startswith("Ascend") else f"Ascend{chip[1]}"
    return f"{name}_{npu[1]}" if npu else name


def float32_warning(soc: str) -> str | None:
    """Return a warning about float32 on this chip; ``None`` if it computes in float32 (or HF32).

    Derived from the vendor's sources: ops-nn, conv/convolution_forward (its documents list no convolution for
    the Atlas training series, and its code converts to float16 there), and torch_npu, EnvVariables.cpp
    (IsAllowFP32ToFP16: below Ascend910B1).
    """
    if has_bfloat16(soc):
        return None
    return (
        f"{soc} computes float32 convolutions and matrix products in float16, and values saturate. Without a "
        "loss scale small gradients become 0 and overflows go unseen. Use --precision O2 (float16 with a "
        "loss scale), which --precision auto takes on this chip"
    )


def check_together(
    soc: str,
    devices: tuple[int, ...],
    *,
    environment: Mapping[str, str] = os.environ,
    dev: Path = Path("/dev"),
) -> None:
    """Refuse devices of one machine that HCCL cannot join on this chip.

    Source: hccl, docs/zh/user_guide/constraints.md, at 09300b7: on the Atlas training series, 1, 2, 4 or 8
    devices can take part. Devices 0-3 and 4-7 are two separately wired groups, and 2 or 4 devices must come
    from one group.

    Args:
        soc: name of the chip.
        devices: device numbers of this process.
        environment: may contain ASCEND_RT_VISIBLE_DEVICES, which renumbers the devices.
        dev: folder of the device files, which carry the machine's device numbers.

    Raises:
        UsageError: HCCL would fail when the ranks join.
    """
    if not is_atlas_training(soc) or len(devices) == 1:
        return
    given = ",".join(map(str, devices))
    if len(devices) not in (2, 4, 8):
        raise UsageError(
            f"{len(devices)} devices ({given}) cannot train together: on {soc} HCCL joins 1, 2, 4 or 8 "
            "devices of a machine. Use --devices 1, 2, 4 or 8."
        )
    numbers = tuple(_number_of_machine(device, environment, dev) for device in devices)
    if len(devices) == 8 or any(set(numbers) <= set(group) for group in _GROUPS):
        return
    meant = "" if numbers == devices else f", which are {','.join(map(str, numbers))} of the machine,"
    raise UsageError(
        f"devices {given}{meant} cannot train together: on {soc} HCCL joins 2 or 4 devices only if all are "
        "in 0-3 or all in 4-7. Use --devices 2 or 4, or such a --device-list, for example 0,1,2,3."
    )


def _number_of_machine(device: int, environment: Mapping[str, str], dev: Path) -> int:
    """Return the machine-wide number of a device, or its number in this process if that is unknown."""
    listed = environment.get("ASCEND_RT_VISIBLE_DEVICES", "")
    visible = [int(part) for part in listed.split(",") if part.strip().isdigit()]
    if device < len(visible):
        device = visible[device]
    # A container numbers its devices from 0, but the device files keep the machine's numbers.
    files = sorted(int(path.name[7:]) for path in dev.glob("davinci*") if path.name[7:].isdigit())
    return files[device] if device < len(files) else device


def overflow(npu: Any, torch_npu: Any) -> Overflow | None:
    """Return the float status register of the current device; ``None`` if it computes infinities.

    Chips of the first generation saturate: they return 65504 instead of infinity and 0 instead of NaN, so the
    gradients do not show an overflow. They set a flag instead. (Newer chips do the same with
    INF_NAN_MODE_ENABLE=0 and INF_NAN_MODE_FORCE_DISABLE=1.) ``torch_npu.npu.amp.GradScaler`` reads the flag
    on the host. Here it stays on the device, and the step reads it there.
    """
    if npu.utils.is_support_inf_nan():
        return None

    def clear() -> None:
        torch_npu.npu_clear_float_status(torch.zeros(_STATUS_SIZE, device="npu"))

    def raised() -> Tensor:
        # The first generation fills the tensor in place and returns it; others return a new int32 tensor.
        status: Tensor = torch_npu.npu_get_float_status(torch.zeros(_STATUS_SIZE, device="npu"))
        return (status[0] != 0).to(torch.float32)

    return Overflow(clear, raised)
