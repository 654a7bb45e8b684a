"""Which backend: an explicit name fails loudly, ``auto`` says what it chose and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from shufflenet_fn_backends.errors import UsageError
from shufflenet_fn_backends.names import BACKEND_NAMES, suggestion
from shufflenet_fn_backends.primitives import Backend


class Selection(NamedTuple):
    """A backend and the reason why it was taken, for the run's log and manifest."""

    backend: Backend[Any]
    reason: str


def get_backend(name: str) -> Backend[Any]:
    """The backend called ``name``.

    Raises:
        UsageError: there is none of that name; the message lists the valid ones.
    """
    try:
        factory = _FACTORIES[name]
    except KeyError:
        raise UsageError(
            f"unknown backend {name!r}{suggestion(name, BACKEND_NAMES)}. "
            f"Valid backends: {', '.join(BACKEND_NAMES)}."
        ) from None
    return factory()


def select_backend(name: str, device_type: str) -> Selection:
    """Resolve ``name`` (``auto`` or an explicit name) for ``cpu``, ``cuda`` or ``npu``."""
    if name != "auto":
        return Selection(get_backend(name), f"backend {name}: asked for")
    choice, why = _CHOSEN_FOR[device_type]
    return Selection(get_backend(choice), f"backend {choice}: {why}")


def _reference() -> Backend[Any]:
    from shufflenet_fn_backends.reference import BACKEND

    return BACKEND


def _native() -> Backend[Any]:
    from shufflenet_fn_backends.native import BACKEND

    return BACKEND


def _gather() -> Backend[Any]:
    from shufflenet_fn_backends.gather import BACKEND

    return BACKEND


def _routed() -> Backend[Any]:
    from shufflenet_fn_backends.routed import BACKEND

    return BACKEND


def _npu() -> Backend[Any]:
    from shufflenet_fn_backends.npu import BACKEND

    return BACKEND


_FACTORIES: Mapping[str, Callable[[], Backend[Any]]] = MappingProxyType(
    {
        "reference": _reference,
        "native": _native,
        "gather": _gather,
        "routed": _routed,
        "npu": _npu,
    }
)

_CHOSEN_FOR: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cpu": ("reference", "the paper's operations"),
        "cuda": ("reference", "the paper's operations; no other was measured on cuda yet"),
        "npu": ("npu", "the map of primitives made for it"),
    }
)
