"""Choice of the backend: an explicit name is used or refused; ``auto`` reports its choice and the reason."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from shufflenet_fn_backends.names import BACKEND_NAMES, suggestion
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.support.errors import DeviceError, UsageError


class Selection(NamedTuple):
    """A backend and the reason for its choice, for the run's log and manifest."""

    backend: Backend[Any]
    reason: str


def get_backend(name: str) -> Backend[Any]:
    """Return the backend called ``name``.

    Raises:
        UsageError: no backend has that name; the message lists the valid names.
        DeviceError: a requirement of the backend is missing on this machine.
    """
    if name not in BACKEND_NAMES:
        raise UsageError(
            f"unknown backend {name!r}{suggestion(name, BACKEND_NAMES)}. "
            f"Valid backends: {', '.join(BACKEND_NAMES)}."
        )
    if name == "cpu":
        # Build first, so that a missing compiler is reported before any other work.
        importlib.import_module("shufflenet_fn_backends.fused.library").kernels()
    backend: Backend[Any] = importlib.import_module(f"shufflenet_fn_backends.{name}").BACKEND
    return backend


def select_backend(name: str, device_type: str, *, compiled: bool = False) -> Selection:
    """Resolve ``name`` (``auto`` or an explicit name) for ``cpu``, ``cuda`` or ``npu``.

    If a requirement of the device's own backend is missing (a C++ compiler on the CPU), or if torch will
    compile the computation (``compiled``) and the backend cannot be compiled, ``auto`` takes ``routed`` and
    reports the reason. An explicit name raises.

    Raises:
        UsageError: there is no such backend, or it does not run on this device.
        DeviceError: a requirement of the backend is missing on this machine.
    """
    if name == "cpu" != device_type:
        raise UsageError(
            f"backend cpu is for device cpu, not {device_type}. Use --backend auto, or routed, gather, "
            "native or reference, which compute on any device."
        )
    if compiled and device_type == "cpu":
        _check_compiler()
        if name == "auto":
            return Selection(get_backend("routed"), "backend routed: cpu cannot be compiled by torch")
        if name == "cpu":
            raise UsageError(
                "backend cpu cannot be compiled by torch: its operators are compiled already. Leave out "
                "--compile, or use --backend routed."
            )
    if name != "auto":
        return Selection(get_backend(name), f"backend {name}: asked for")
    choice, why = _CHOSEN_FOR[device_type]
    try:
        return Selection(get_backend(choice), f"backend {choice}: {why}")
    except DeviceError as error:
        return Selection(get_backend("routed"), f"backend routed: not {choice}, {_first_sentence(error)}")


def _check_compiler() -> None:
    from shufflenet_fn_backends.fused.library import find_compiler

    try:
        find_compiler()
    except DeviceError as error:
        raise DeviceError(f"--compile needs a C++ compiler: {error}") from None


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].splitlines()[0]


_CHOSEN_FOR: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cpu": ("cpu", "auto, the map of primitives made for it"),
        "cuda": ("reference", "auto, the paper's operations; no other was measured on cuda yet"),
        "npu": ("npu", "auto, the map of primitives made for it"),
    }
)
