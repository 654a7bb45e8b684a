"""The contenders of ``bench step`` on a GPU or an NPU, and how one of them is timed there."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch

from shufflenet_fn.bench.contenders import Field, available, settled, torchvision_models
from shufflenet_fn.bench.device_steps import our_step, peer_step
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.step_contenders import PEERS, data_and_weights, torchvision_step
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.model.config import get_config
from shufflenet_fn_backends.names import STATS_IN_STEP, suggestion
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.runtimes.base import Runtime, Window
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import UsageError

ORIGINAL: Final = "original's shape"
"""The peer on an NPU: ``ascend_peer`` with ``torch.optim.SGD``."""

_COMPILED: Final = " compiled"
_RECOMPILE_LIMIT: Final = 64
_WINDOW: Final = Window(skip=0, warm_up=1, record=3)


class Ours(NamedTuple):
    """A way to take the step of ``train``: with this backend, on these kinds of devices.

    ``stats_in_kernel``: where the device's kernels can update the running statistics, they do.
    """

    backend: str
    devices: tuple[str, ...] = ("cuda", "npu")
    stats_in_kernel: bool = True


OURS: Final[Mapping[str, Ours]] = MappingProxyType(
    {
        "reference": Ours("reference"),
        "native": Ours("native"),
        "gather": Ours("gather"),
        # On an NPU this is npu under another name.
        "routed": Ours("routed", ("cuda",)),
        "npu": Ours("npu", ("npu",)),
        f"gather{STATS_IN_STEP}": Ours("gather", ("npu",), stats_in_kernel=False),
        f"npu{STATS_IN_STEP}": Ours("npu", ("npu",), stats_in_kernel=False),
    }
)
"""Every way by name. A kept result may name any of them."""


class Turn(NamedTuple):
    """Seconds of a step, of a turn's steps the mean.

    ``step``: from one synchronisation to the next. ``host``: until the last launch had returned.
    ``device``: between events in its stream around all of them, ``None`` where there are none (CPU).
    """

    step: float
    host: float
    device: float | None


def ours_on(device: str, settings: StepBenchSettings) -> tuple[str, ...]:
    """The names of ours that ``--backend`` asks for, then the same under ``torch.compile`` if wanted.

    Raises:
        UsageError: one is unknown, or for another kind of device.
    """
    present = tuple(name for name, ours in OURS.items() if device in ours.devices)
    names = present
    if settings.backend != "auto":
        names = tuple(name.strip() for name in settings.backend.split(","))
        for name in names:
            if name not in present:
                raise UsageError(
                    f"--backend {name!r} is not valid on {device}{suggestion(name, present)}. Choose of: "
                    f"auto, {', '.join(present)}, several with commas between."
                )
        if len(set(names)) < len(names):
            raise UsageError(
                f"--backend {settings.backend!r} names a backend twice. Name each once."
            )
    return names + tuple(name + _COMPILED for name in names if settings.ours_compile)


def peers_on(device: str, settings: StepBenchSettings) -> Field:
    """On an NPU the original's shape, on a GPU every way of torchvision's.

    Raises:
        UsageError: torchvision is needed and missing.
    """
    if device == "npu":
        return Field((ORIGINAL,), {})
    torchvision_models("bench step")
    return available(PEERS, compiled=settings.compile)


def build_device_case(device: str, case: str, settings: StepBenchSettings) -> Step:
    """``turn: NAME`` takes a turn of the contender and returns its ``Turn``; ``profile: NAME`` profiles
    it and returns the folder."""
    what, _, name = case.partition(": ")
    runtime = runtime_of(settings.device)
    runtime.prepare()
    runtime.set_device(0)
    if not runtime.shares:  # what the CPU's memory allocator does is a setting of the benchmark
        runtime.tune()
    step = build_contender(name, settings, runtime)
    if what == "profile":
        return lambda: profiled(step, name, settings, runtime)
    steps = settings.steps or 1
    return lambda: timed(step, steps, runtime)


def build_contender(name: str, settings: StepBenchSettings, runtime: Runtime) -> Step:
    """One training step of the contender, which returns its loss. It waits for nothing."""
    device, config = runtime.device(0), get_config(settings.arch)
    measured: dict[str, Any] = {
        "precision": settings.precision,
        "batch_size": int(settings.batch_size),
        "image_size": settings.image_size,
    }
    if name == ORIGINAL:
        return peer_step(config, device, **measured)
    if name in PEERS:
        data, variables = data_and_weights(settings)
        return torchvision_step(settings, variables, data, PEERS[name], device)
    compiled = name.endswith(_COMPILED)
    if compiled:
        # All of ours share their code, and torch compiles one piece of code only so many times.
        importlib.import_module("torch._dynamo").config.recompile_limit = _RECOMPILE_LIMIT
    ours = OURS[name.removesuffix(_COMPILED)]
    step = our_step(
        config,
        get_backend(ours.backend),
        device,
        flat=runtime.launches_are_dear,
        stats_in_kernel=ours.stats_in_kernel and runtime.launches_are_dear and not compiled,
        memory_format=runtime.memory_format,
        overflow=runtime.overflow(),
        compiler=torch.compile if compiled else lambda function: function,
        **measured,
    )
    return settled(step) if compiled else step


def timed(step: Step, steps: int, runtime: Runtime) -> Turn:
    """Take ``steps`` steps with one synchronisation before and one behind them."""
    event = _event(runtime)
    runtime.synchronize()
    start = time.perf_counter()
    begin = event()
    for _ in range(steps):
        step()
    end = event()
    host = time.perf_counter() - start
    runtime.synchronize()
    whole = time.perf_counter() - start
    device = begin.elapsed_time(end) / 1000 / steps if begin is not None else None
    return Turn(whole / steps, host / steps, device)


def profiled(
    step: Step, name: str, settings: StepBenchSettings, runtime: Runtime
) -> tuple[str, int]:
    """Profile a few steps into a folder of the contender's own; the folder and how many were recorded."""
    assert settings.profile is not None
    words = (settings.arch, settings.precision, settings.batch_size, name)
    folder = Path(settings.profile) / "-".join(words).replace(" ", "-").replace("'", "")
    folder.mkdir(parents=True, exist_ok=True)
    step()
    runtime.synchronize()
    with runtime.profiler(folder, "step", _WINDOW) as profiler:
        for _ in range(_WINDOW.length):
            step()
            # Or what the warm-up has launched would run, and be counted, in the recorded steps.
            runtime.synchronize()
            profiler.step()
    return str(folder), _WINDOW.record


def _event(runtime: Runtime) -> Callable[[], Any]:
    """Records an event with a time in the current stream; gives ``None`` on a CPU."""
    if runtime.name == "cpu":
        return lambda: None
    module = torch.get_device_module(runtime.name)

    def record() -> Any:
        event = module.Event(enable_timing=True)
        event.record()
        return event

    return record
