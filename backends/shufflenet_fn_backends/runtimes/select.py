"""Choice of the device: an explicit name is used or refused; ``auto`` reports its choice and the reason."""

from __future__ import annotations

from typing import NamedTuple

from shufflenet_fn_backends.names import DEVICE_NAMES, suggestion
from shufflenet_fn_backends.runtimes import cpu, cuda
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.npu import runtime as npu
from shufflenet_fn_backends.support.errors import DeviceError, UsageError


class RuntimeSelection(NamedTuple):
    """A runtime and the reason for its choice, for the run's log."""

    runtime: Runtime
    reason: str


def select_runtime(name: str) -> RuntimeSelection:
    """Return the runtime for ``auto``, ``cpu``, ``cuda`` or ``npu``, without using a device.

    Raises:
        DeviceError: the named device is not available here.
        UsageError: there is no such device name.
    """
    if name == "auto":
        return _auto()
    factories = {"cpu": cpu.runtime, "cuda": cuda.runtime, "npu": npu.available}
    if name not in factories:
        raise UsageError(
            f"unknown device {name!r}{suggestion(name, DEVICE_NAMES)}. "
            f"Valid devices: auto, {', '.join(DEVICE_NAMES)}."
        )
    return RuntimeSelection(factories[name](), f"device {name}: asked for")


def runtime_of(name: str) -> Runtime:
    """Return the runtime of a device that ``select_runtime`` has found, for a process that computes on it.

    Raises:
        DeviceError: the device is not available.
    """
    return {"cpu": cpu.runtime, "cuda": cuda.runtime, "npu": npu.runtime}[name]()


def check_device_indices(runtime: Runtime, indices: list[int]) -> None:
    """Raise ``DeviceError`` unless the machine has all these devices. CPU processes share cores."""
    if runtime.shares:
        return
    count = runtime.device_count()
    missing = [index for index in indices if index >= count]
    if missing:
        raise DeviceError(
            f"{len(indices)} {runtime.name} devices were asked for (numbers {_listed(indices)}), but "
            f"this machine has {count} (numbers {_listed(list(range(count)))}). "
            f"Use --devices {count} or less, or --device-list."
        )


def _auto() -> RuntimeSelection:
    no_npu = npu.unavailable_reason()
    if no_npu is None:
        return RuntimeSelection(npu.available(), "device npu: auto, an NPU is available")
    no_cuda = cuda.unavailable_reason()
    if no_cuda is None:
        return RuntimeSelection(cuda.runtime(), f"device cuda: auto; {_short(no_npu)}")
    return RuntimeSelection(cpu.runtime(), f"device cpu: auto; {_short(no_npu)}; {_short(no_cuda)}")


def _short(reason: str) -> str:
    sentence = reason.split(". ")[0].removeprefix("device ")
    return "no " + sentence.replace(" is not available:", ":")


def _listed(indices: list[int]) -> str:
    return ",".join(map(str, indices)) if indices else "none"
