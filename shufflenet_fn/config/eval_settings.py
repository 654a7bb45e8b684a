"""The settings of an evaluation. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from shufflenet_fn.config.options import like, option
from shufflenet_fn.config.settings import TrainSettings

_PANEL = "Evaluation"
_as_train = partial(like, TrainSettings, panel=_PANEL)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """All settings of an evaluation. For a checkpoint, missing values come from the run that wrote it."""

    data: str | None = _as_train("data", help="Folder with train/ and val/, packed data, or 'demo'.")
    split: str = option("val", "--split", help="Split to evaluate.", panel=_PANEL, choices=("val", "train"))
    arch: str | None = _as_train("arch", None, help="Architecture of a bare weights file.")
    image_size: int | None = _as_train("image_size", None, help="Side of the centre crop.")
    eval_resize: int | None = _as_train("eval_resize", help="Short side before the crop.")
    batch_size: int = _as_train("batch_size", help="Images per pass and device.")
    workers: int | None = _as_train("workers", help="Loader threads for all devices.")
    on_bad_image: str = _as_train(
        "on_bad_image",
        help="If a file is damaged or not an image: stop and name it, or skip it and report how many.",
    )
    max_bad: str = _as_train(
        "max_bad", help="With --on-bad-image skip: how many images may be bad, as a percentage or a number."
    )
    image_reader: str = _as_train("image_reader")
    precision: str = _as_train(
        "precision", "fp32", help="fp32, bf16, O0 to O3, or written out like 'p=f32,c=bf16,o=f32'."
    )
    device: str = _as_train("device", help="Kind of device.")
    engine: str = option(
        "auto",
        "--engine",
        help="What computes. auto: ONNX Runtime on a CPU in fp32 if it is installed, else torch.",
        panel=_PANEL,
        choices=("auto", "torch", "onnxruntime"),
    )
    devices: int = _as_train("devices", 1, help="Devices, one process each.")
    backend: str = _as_train("backend", help="Primitives that the network computes with.")
