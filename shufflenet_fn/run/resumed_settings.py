"""The settings of a resumed run: its own, with what the command line changes and what a start has chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from shufflenet_fn.checkpoint.format import MANIFEST
from shufflenet_fn.config.options import convert, declared
from shufflenet_fn.config.resolve import Resolved, checked, renamed, settle_conflicts
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.run.resume import Resume
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.select import select_runtime
from shufflenet_fn_backends.support.errors import DeviceError, UsageError

KEPT: Final = "kept from the start"
"""Origin of a choice that a run made at its start and keeps, because it decides what is computed."""


def stored_settings(resume: Resume) -> TrainSettings:
    """Return the settings that the checkpoint was written with."""
    stored, where = renamed(resume.manifest["settings"]), str(resume.checkpoint / MANIFEST)
    return checked(
        TrainSettings(
            **{
                item.name: convert(item, stored[item.name], where)
                for item in declared(TrainSettings)
                if item.name in stored
            }
        )
    )


def resumed_settings(resume: Resume, given: Mapping[str, Any]) -> tuple[Resolved, list[str]]:
    """Return the settings of a resumed run, and notes on what changes.

    The run's own settings are used again; what the command line gives (``given``) replaces them.

    Raises:
        UsageError: the command line names another directory or architecture.
    """
    checkpoint, manifest = resume.checkpoint, resume.manifest
    origin = renamed(manifest["origin"])
    notes: list[str] = []
    for name in ("run_dir", "output"):
        if name in given and resume.run_dir is not None:
            path = given.get("resume", checkpoint)
            raise UsageError(
                f"--{name.replace('_', '-')} has no place beside --resume: the run goes on in its own "
                f"directory. To start another run from these weights, use --pretrained {path}."
            )
    settings = stored_settings(resume)
    if resume.run_dir is None:
        settings = replace(settings, run_dir=None)
    # A limit of one start is not part of the recipe: a run cut short by it goes on to its end.
    settings = replace(settings, max_steps=None, profile=None, max_time=None)
    wanted = settle_conflicts({key: value for key, value in given.items() if key != "resume"})
    if "learning_rate" in wanted and origin.get("head_lr", "").startswith("preset "):
        wanted.setdefault("head_lr", None)  # as at the start of a run
    changed = checked(replace(settings, **wanted))
    for name in ("arch", "freeze", "opt"):
        before, now = getattr(settings, name), getattr(changed, name)
        if now != before:
            raise UsageError(
                f"--{name} {now}: the checkpoint {checkpoint} is of a run with --{name} {before}. Leave it "
                "out, or start a new run with it, with --pretrained for these weights instead of --resume."
            )
    for name in wanted:
        if getattr(changed, name) != getattr(settings, name):
            notes.append(
                f"{name} changes at the resume from {getattr(settings, name)!r} to {getattr(changed, name)!r}"
            )
            origin[name] = "command line, at the resume"
    resolved, kept = pin_choices(Resolved(changed, origin, manifest["preset"]), manifest, wanted)
    resolved, backend = pin_backend(resolved, manifest, select_runtime(resolved.settings.device)[0].name)
    notes += [*kept, *backend]
    return resolved, notes


def pin_choices(
    resolved: Resolved, manifest: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Resolved, list[str]]:
    """Return ``resolved`` with microbatches, accumulation and compute threads of ``manifest``, and notes.

    What the command line gives explicitly (``given``) is left as it is.

    Raises:
        UsageError: the manifest holds values that no run can have had.
    """
    settings = resolved.settings
    kept: dict[str, Any] = {}
    if given.keys() & {"accumulate", "benchmark"}:
        kept["microbatches"] = given.get("microbatches")
    elif "microbatches" not in given:
        kept["microbatches"] = manifest["lanes"]
    if settings.benchmark and "benchmark" not in given and "accumulate" not in given:
        # --benchmark 1 would count again, by the number of devices.
        stored_batch = manifest["settings"].get("batch_size", settings.batch_size)
        kept |= {"benchmark": 0, "accumulate": manifest["global_batch"] // stored_batch}
    if settings.threads is None:
        kept["threads"] = manifest["threads"]
    settings = checked(replace(settings, **kept))
    changed = [name for name in kept if getattr(settings, name) != getattr(resolved.settings, name)]
    origin = {**resolved.origin, **dict.fromkeys(changed, KEPT)}
    notes = [f"{name} {getattr(settings, name)}: {KEPT}" for name in changed]
    return resolved._replace(settings=settings, origin=origin), notes


def pin_backend(resolved: Resolved, manifest: Mapping[str, Any], device: str) -> tuple[Resolved, list[str]]:
    """Return ``resolved`` with the backend that ``--backend auto`` chose at the start, if it is available.

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
    origin = {**resolved.origin, "backend": KEPT}
    settings = replace(settings, backend=name)
    return resolved._replace(settings=settings, origin=origin), [f"backend {name}: {KEPT}"]


def idle_cores(settings_origin: str | None, threads: int, cores: int) -> list[str]:
    """Return a note if the compute threads that were kept are not as many as a process has ``cores``."""
    if settings_origin != KEPT or threads == cores:
        return []
    return [
        f"{threads} compute threads, {KEPT}, on {cores} cores for each process: --threads {cores} may be "
        "faster here, but rounds sums otherwise"
    ]
