"""What ``shufflenet-fn doctor`` can be told. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from shufflenet_fn.config.options import option
from shufflenet_fn_backends.names import DEVICE_NAMES

_PANEL = "Doctor"


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Where to look and for how long."""

    device: str = option(
        "auto",
        "--device",
        help="The device that is to work; auto takes npu, then cuda, then cpu, as training does.",
        panel=_PANEL,
        choices=("auto", *DEVICE_NAMES),
    )
    output: str = option(
        "runs",
        "--output",
        help="Where runs are to be written: its disk is examined.",
        panel=_PANEL,
    )
    timeout: float = option(
        120.0,
        "--timeout",
        help="Seconds that one stage may take before it counts as hanging.",
        panel=_PANEL,
        above=0,
    )
