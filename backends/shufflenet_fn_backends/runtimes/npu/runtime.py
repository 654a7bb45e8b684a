"""The Ascend runtime. The first function that needs torch_npu imports it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from shufflenet_fn_backends.batch_norm import third_result
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.base import (
    Overflow,
    Profiler,
    Runtime,
    Settling,
    Window,
    deterministic_operators,
    device_memory,
    profiling,
)
from shufflenet_fn_backends.runtimes.npu import chip
from shufflenet_fn_backends.runtimes.npu.environment import set_recommended
from shufflenet_fn_backends.runtimes.npu.probe import Found, cann_version, probe
from shufflenet_fn_backends.support.errors import DeviceError

COMPILING = (
    "compile on npu is an experiment: it was not run on a chip here. inductor's default generator there is "
    "triton-ascend, which supports torch 2.7.1 and 2.9.0 only; TORCHINDUCTOR_NPU_BACKEND, set before Python "
    "starts, names another (mlir, dvm, ascendc), of which dvm is not in torch_npu's branch "
    "v2.12.0-26.1.0. Ascend's torchbench lists shufflenet_v2_x1_0 with dvm at 3.39 times the speed: "
    "torchvision's model in evaluation mode, with captured graphs (aclgraph) on and loosened tolerances, so "
    "it does not tell what a training step here gains"
)

# HCCL's own message asks for 10 s (EJ0001, as in LlamaFactory issue 3839). The other codes: the device is
# still in use (EL0005, Resource_Busy) or does not start (507033, ACL_ERROR_RT_DEV_SETUP_ERROR).
SETTLING = Settling(
    15.0,
    re.compile(r"EJ0001|Failed to initialize the HCCP process|EL0005|Resource_Busy|\b507033\b"),
    "after a process on it was killed, an NPU refuses new ones for some seconds (EJ0001, EL0005, 507033)",
)


def runtime(found: Found | None = None) -> Runtime:
    """Return the Ascend runtime.

    Args:
        found: the result of ``probe``, so that this process can plan a run without using a device. Without
            it, torch_npu answers in this process.
    """
    soc = _soc if found is None else lambda: found.soc
    return Runtime(
        name="npu",
        dist_backend="hccl",
        memory_format=torch.contiguous_format,
        flat_state=True,
        device_count=lambda: int(load().device_count()) if found is None else found.devices,
        chip=soc,
        versions=_versions if found is None else lambda: _named(found.torch_npu, found.cann),
        dtypes=lambda: chip.dtypes(soc()),
        half=lambda: chip.half(soc()),
        prepare=set_recommended,
        set_device=lambda index: load().set_device(index),
        tune=lambda: set_up(load()),
        deterministic=_deterministic,
        synchronize=lambda: load().synchronize(),
        memory=lambda: device_memory(load()),
        rng_state=lambda: load().get_rng_state(),
        set_rng_state=lambda state: load().set_rng_state(state),
        overflow=_overflow,
        profiler=_profiling,
        settling=SETTLING,
        compiling=COMPILING,
        check_together=lambda devices: chip.check_together(soc(), devices),
        float32_warning=lambda: chip.float32_warning(soc()),
    )


def available() -> Runtime:
    """Return the runtime if ``probe`` finds an NPU.

    Raises:
        DeviceError: there is no NPU; the message says why and what to do.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise DeviceError(reason)
    return runtime(probe())


def unavailable_reason() -> str | None:
    """Return why no NPU can be used here, or ``None`` if one can."""
    problem = probe().problem
    if problem is None:
        return None
    return (
        f"device npu is not available: {problem}. Or use --device cpu. `shufflenet-fn doctor` looks into it "
        "step by step."
    )


def load() -> Any:
    """Import torch_npu and return ``torch.npu``.

    Raises:
        DeviceError: torch_npu is not installed or does not load.
    """
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        known = explain(str(error))
        advice = f" {known.meaning}. {known.fix}." if known else ""
        raise DeviceError(
            f"device npu is not available: torch_npu does not load ({error}).{advice} "
            "`shufflenet-fn doctor` looks into it step by step."
        ) from error
    return getattr(torch, "npu")  # noqa: B009  torch_npu adds it; no type checker knows it


def _soc() -> str:
    return str(load().get_device_name(0))


def _versions() -> dict[str, str | None]:
    npu = load()
    return _named(importlib.metadata.version("torch_npu"), cann_version(npu))


def _named(torch_npu: str | None, cann: str | None) -> dict[str, str | None]:
    return {"torch": str(torch.__version__), "torch_npu": torch_npu, "cann": cann}


def _overflow() -> Overflow | None:
    npu = load()
    return chip.overflow(npu, importlib.import_module("torch_npu"))


def _deterministic() -> tuple[str, ...]:
    # torch's switch sets HCCL's too, but only for groups that are created later (Ascend/pytorch,
    # ProcessGroupHCCL.cpp), and the environment shows the setting.
    os.environ.setdefault("HCCL_DETERMINISTIC", "true")
    hccl = os.environ["HCCL_DETERMINISTIC"]
    return (f"deterministic: {deterministic_operators()}, HCCL_DETERMINISTIC={hccl}",)


@contextmanager
def _profiling(folder: Path, name: str, window: Window) -> Iterator[Profiler]:
    """Run Ascend's own profiler, because torch's does not record the kernels of an NPU."""
    load()
    profiler: Any = importlib.import_module("torch_npu.profiler")
    activities = (profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU)
    # Without it the traces lack collectives. The name has an underscore, but is documented.
    config = profiler._ExperimentalConfig(profiler_level=profiler.ProfilerLevel.Level1)
    with profiling(activities, profiler, experimental_config=config)(folder, name, window) as running:
        yield running


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
