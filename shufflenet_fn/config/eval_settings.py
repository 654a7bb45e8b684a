"""The settings of an evaluation. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from shufflenet_fn.config.options import option
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES

_PANEL = "Evaluation"


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """All settings of an evaluation. For a checkpoint, missing values come from the run that wrote it."""

    data: str | None = option(
        None,
        "--data",
        "--data_path",
        help="Folder with train/ and val/, packed data, or 'demo'.",
        panel=_PANEL,
    )
    split: str = option("val", "--split", help="Split to evaluate.", panel=_PANEL, choices=("val", "train"))
    arch: str | None = option(None, "--arch", "-a", help="Architecture of a bare weights file.", panel=_PANEL)
    image_size: int | None = option(
        None, "--image-size", help="Side of the centre crop.", panel=_PANEL, minimum=8
    )
    eval_resize: int | None = option(
        None, "--eval-resize", help="Short side before the crop.", panel=_PANEL, minimum=8
    )
    batch_size: int = option(
        256, "--batch-size", "-b", help="Images per pass and device.", panel=_PANEL, minimum=1
    )
    workers: int | None = option(
        None, "--workers", "-j", help="Loader threads for all devices.", panel=_PANEL, minimum=0
    )
    on_bad_image: str = option(
        "stop",
        "--on-bad-image",
        help="If a file is damaged or not an image: stop and name it, or skip it and report how many.",
        panel=_PANEL,
        choices=("stop", "skip"),
    )
    max_bad: str = option(
        "0.1%",
        "--max-bad",
        help="With --on-bad-image skip: how many images may be bad, as a percentage or a number.",
        panel=_PANEL,
    )
    image_reader: str = option(
        "auto",
        "--image-reader",
        help="native decodes only what a crop needs, in C++ compiled on first use; python gives the same "
        "pixels with libraries, more slowly. auto: native if it can be built.",
        panel=_PANEL,
        choices=("auto", "native", "python"),
    )
    precision: str = option(
        "fp32",
        "--precision",
        help="fp32, bf16, O0 to O3, or written out like 'p=f32,c=bf16,o=f32'.",
        panel=_PANEL,
    )
    device: str = option(
        "auto", "--device", help="Kind of device.", panel=_PANEL, choices=("auto", *DEVICE_NAMES)
    )
    devices: int = option(
        1, "--devices", "--device_num", help="Devices, one process each.", panel=_PANEL, minimum=1
    )
    backend: str = option(
        "auto",
        "--backend",
        help="Primitives that the network computes with.",
        panel=_PANEL,
        choices=("auto", *BACKEND_NAMES),
    )
