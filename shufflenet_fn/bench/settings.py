"""The settings of the benchmarks. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from shufflenet_fn.run.options import option
from shufflenet_fn_backends.names import BACKEND_NAMES

_PANEL = "Measurement"


@dataclass(frozen=True, kw_only=True)
class StepBenchSettings:
    """What ``bench step`` measures."""

    arch: str = option("shufflenet_v2_x1_0", "--arch", "-a", help="Architecture.", panel=_PANEL)
    image_size: int = option(
        224, "--image-size", help="Side of the images.", panel=_PANEL, minimum=8
    )
    batch_size: int = option(
        64, "--batch-size", "-b", help="Images per step.", panel=_PANEL, minimum=2
    )
    precision: str = option(
        "fp32", "--precision", help="fp32 or bf16.", panel=_PANEL, choices=("fp32", "bf16")
    )
    backend: str = option(
        "auto", "--backend", help="Our primitives.", panel=_PANEL, choices=("auto", *BACKEND_NAMES)
    )
    threads: int | None = option(
        None, "--threads", help="Compute threads; all cores if not given.", panel=_PANEL, minimum=1
    )
    rounds: int = option(
        20, "--rounds", help="Turns that each contender takes.", panel=_PANEL, minimum=3
    )
    steps: int = option(1, "--steps", help="Steps in a turn.", panel=_PANEL, minimum=1)
