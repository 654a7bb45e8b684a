"""Results of the doctor's stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shufflenet_fn.config.options import option
from shufflenet_fn_backends.names import DEVICE_NAMES

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


class Finding(NamedTuple):
    """The result of a stage.

    ``status``: ok, warning, failed or skipped. ``fix``: what to do, or empty. ``details``: figures for
    programs and for later stages, as plain JSON values.
    """

    status: str
    text: str
    fix: str = ""
    details: dict[str, Any] = {}  # noqa: RUF012  never written to; a NamedTuple takes no factory


class Stage(NamedTuple):
    """A stage that ran, with its result and its time."""

    name: str
    finding: Finding
    seconds: float


class Report(NamedTuple):
    """All stages. ``ok`` unless one of them failed."""

    stages: tuple[Stage, ...]

    @property
    def ok(self) -> bool:
        return all(stage.finding.status != FAILED for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return ``ok``, and name, status, text, fix, details and seconds of each stage, for ``--json``."""
        return {
            "ok": self.ok,
            "stages": [
                {"name": s.name, **s.finding._asdict(), "seconds": round(s.seconds, 2)} for s in self.stages
            ],
        }


_PANEL = "Doctor"


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Settings of the doctor."""

    device: str = option(
        "auto",
        "--device",
        help="The device to check; auto takes npu, then cuda, then cpu, as training does.",
        panel=_PANEL,
        choices=("auto", *DEVICE_NAMES),
    )
    output: str = option("runs", "--output", help="Folder of the runs, whose disk is checked.", panel=_PANEL)
    timeout: float = option(
        120.0, "--timeout", help="Time limit of one stage in seconds.", panel=_PANEL, above=0
    )
