"""Which backend a run computes with: as asked for, as measured, or the one made for its device."""

from __future__ import annotations

from typing import NamedTuple

from shufflenet_fn.run.estimated import least_cost
from shufflenet_fn.run.measured import Found, Kept, StepCase, look_up
from shufflenet_fn_backends.names import STATS_IN_STEP
from shufflenet_fn_backends.registry import get_backend, select_backend
from shufflenet_fn_backends.support.errors import DeviceError


class Choice(NamedTuple):
    """``name`` of a backend, ``reason`` and further ``notes`` for the run's log.

    ``running_stats``: what a measurement found faster for ``--running-stats``; ``auto`` where none did.
    """

    name: str
    reason: str
    notes: tuple[str, ...] = ()
    running_stats: str = "auto"


def choose_backend(asked: str, case: StepCase, *, compiled: bool, resumed: bool) -> Choice:
    """Resolve ``--backend`` for a run.

    In this order: what was ``asked`` for by name; on other devices than a CPU, the fastest of a kept result
    of ``bench step`` of exactly this ``case``; on npu the least estimated cost (``run.estimated``); what
    ``select_backend`` takes for the device.

    Args:
        asked: a name, or ``auto``.
        case: device, chip, versions, architecture, precision, images a card and their size.
        compiled: torch compiles the step, which ``bench step`` keeps no result of.
        resumed: the run goes on from a checkpoint, and so with the backend of its start (``run.kept``).

    Raises:
        UsageError, DeviceError: as ``select_backend``.
    """
    notes: tuple[str, ...] = ()
    if asked == "auto" and case.device != "cpu" and not compiled and not resumed:
        found = look_up(case)
        notes = found.notes
        if found.kept is not None:
            try:
                return _measured(found.kept, found)
            except DeviceError as error:
                notes = (f"kept measurement {found.path} is not used: {error}",)
        if case.device == "npu":
            estimated = least_cost(case)
            if estimated is not None:
                return Choice(*estimated, notes)
    selection = select_backend(asked, case.device, compiled=compiled)
    return Choice(selection.backend.name, selection.reason, notes)


def _measured(kept: Kept, found: Found) -> Choice:
    """Raises ``DeviceError`` if the backend cannot be had here."""
    get_backend(kept.backend)
    times = ", ".join(
        f"{name} {ms:.4g} ms" for name, ms in sorted(kept.step_ms.items(), key=lambda pair: pair[1])
    )
    return Choice(
        kept.backend,
        f"backend {kept.backend}: auto, the fastest of the kept measurement {found.path} ({times} a step)",
        running_stats="step" if kept.contender.endswith(STATS_IN_STEP) else "auto",
    )
