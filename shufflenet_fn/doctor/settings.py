"""The settings of ``shufflenet-fn doctor``. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from shufflenet_fn.config.options import option
from shufflenet_fn_backends.names import DEVICE_NAMES

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
    output: str = option(
        "runs",
        "--output",
        help="Folder of the runs, whose disk is checked.",
        panel=_PANEL,
    )
    timeout: float = option(
        120.0,
        "--timeout",
        help="Time limit of one stage in seconds.",
        panel=_PANEL,
        above=0,
    )
