"""Choices that a run made at its start and that a resume keeps, because they decide what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from shufflenet_fn.config.resolve import Resolved, checked
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.support.errors import DeviceError

ORIGIN: Final = "kept from the start"


def keep_choices(
    resolved: Resolved, manifest: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Resolved, list[str]]:
    """``resolved`` with lanes, accumulation and compute threads as ``manifest`` has them, and notes.

    What the command line gives explicitly (``given``) is left as it is.

    Raises:
        UsageError: the manifest holds values that no run can have had.
    """
    settings = resolved.settings
    kept: dict[str, Any] = {}
    if given.keys() & {"accumulate", "benchmark"}:
        kept["lanes"] = given.get("lanes")
    elif "lanes" not in given:
        kept["lanes"] = manifest["lanes"]
    if settings.benchmark and "benchmark" not in given and "accumulate" not in given:
        # --benchmark 1 would count anew, by the number of devices.
        stored_batch = manifest["settings"].get("batch_size", settings.batch_size)
        kept |= {"benchmark": 0, "accumulate": manifest["global_batch"] // stored_batch}
    if settings.threads is None:
        kept["threads"] = manifest["threads"]
    settings = checked(replace(settings, **kept))
    changed = [name for name in kept if getattr(settings, name) != getattr(resolved.settings, name)]
    origin = {**resolved.origin, **dict.fromkeys(changed, ORIGIN)}
    notes = [f"{name} {getattr(settings, name)}: {ORIGIN}" for name in changed]
    return resolved._replace(settings=settings, origin=origin), notes


def keep_backend(
    resolved: Resolved, manifest: Mapping[str, Any], device: str
) -> tuple[Resolved, list[str]]:
    """``resolved`` with the backend that ``--backend auto`` came to at the start, if it can be had.

    ``device``: the kind that the run goes on with.
    """
    settings, name = resolved.settings, manifest["backend"]
    if settings.backend != "auto" or device != manifest["device"]:
        return resolved, []
    if select_backend("auto", device, compiled=settings.compile).backend.name == name:
        return resolved, []
    try:
        select_backend(name, device, compiled=settings.compile)
    except DeviceError as error:
        return resolved, [f"backend {name} of the start cannot be had here: {error}"]
    origin = {**resolved.origin, "backend": ORIGIN}
    settings = replace(settings, backend=name)
    return resolved._replace(settings=settings, origin=origin), [f"backend {name}: {ORIGIN}"]


def idle_cores(settings_origin: str | None, threads: int, cores: int) -> str | None:
    """A note if compute threads that were kept are not as many as a process has cores here.

    Args:
        settings_origin: where the setting ``threads`` came from.
        threads: of a process.
        cores: a process's share of this machine's.
    """
    if settings_origin != ORIGIN or threads == cores:
        return None
    return (
        f"{threads} compute threads, {ORIGIN}, on {cores} cores for each process: --threads {cores} may be "
        "faster here, but rounds sums otherwise"
    )
