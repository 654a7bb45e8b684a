"""The settings of the benchmarks. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shufflenet_fn.config.options import declared, option
from shufflenet_fn.model.config import ARCHITECTURES, canonical_name
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES
from shufflenet_fn_backends.support.errors import UsageError

_PANEL = "Measurement"


def _allocator(default: str, of_default: str) -> Any:
    return option(
        default,
        "--allocator",
        help=f"default: {of_default}. keep: freed memory is kept by the process, for every candidate.",
        panel=_PANEL,
        choices=("default", "keep"),
    )


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings that all benchmarks share."""

    image_size: int = option(
        224, "--image-size", help="Side of the images.", panel=_PANEL, minimum=8
    )
    rounds: int = option(
        20, "--rounds", help="Turns that each candidate takes.", panel=_PANEL, minimum=3
    )


@dataclass(frozen=True, kw_only=True)
class StepBenchSettings(BenchSettings):
    """Settings of ``bench step``."""

    arch: str = option(
        "shufflenet_v2_x1_0",
        "--arch",
        "-a",
        help="Architecture, several separated by commas, or all.",
        panel=_PANEL,
    )
    device: str = option(
        "auto", "--device", help="Kind of device.", panel=_PANEL, choices=("auto", *DEVICE_NAMES)
    )
    batch_size: str = option(
        "64",
        "--batch-size",
        "-b",
        help="Images per step and device, several separated by commas.",
        panel=_PANEL,
    )
    precision: str = option(
        "fp32",
        "--precision",
        help="As for train. O1 and O2 (float16 with a loss scale) are not for a CPU.",
        panel=_PANEL,
        choices=("fp32", "bf16", "O1", "O2"),
    )
    backend: str = option(
        "auto",
        "--backend",
        help="Our backend. auto: that of train on a CPU, all backends on other devices, where several can be "
        "given, separated by commas.",
        panel=_PANEL,
    )
    threads: int | None = option(
        None, "--threads", help="Compute threads; all cores if not given.", panel=_PANEL, minimum=1
    )
    allocator: str = _allocator(
        "default", "everyone's defaults; ours keeps freed memory, as training does"
    )
    steps: int | None = option(
        None,
        "--steps",
        "--steps-per-sync",
        help="Steps in a turn. The host waits for the device after each turn. Default: 1 on a CPU, 20 on "
        "other devices.",
        panel=_PANEL,
        minimum=1,
    )
    compile: bool = option(
        True,
        "--compile/--no-compile",
        help="Measure against torchvision under torch.compile too (needs a C++ compiler).",
        panel=_PANEL,
    )
    ours_compile: bool = option(
        False,
        "--ours-compile/--no-ours-compile",
        help="Measure our own step under torch.compile as well.",
        panel=_PANEL,
    )
    profile: str | None = option(
        None,
        "--profile",
        help="Folder for a profile of each candidate, for a table of its kernels; not on a CPU.",
        panel=_PANEL,
    )
    keep: bool = option(
        False,
        "--keep/--no-keep",
        help="Keep the result in the user's cache, where train --backend auto uses it; not on a CPU.",
        panel=_PANEL,
    )


@dataclass(frozen=True, kw_only=True)
class InferBenchSettings(BenchSettings):
    """Settings of ``bench infer``, which measures every batch size with every number of threads."""

    arch: str = option("shufflenet_v2_x1_0", "--arch", "-a", help="Architecture.", panel=_PANEL)
    batch_size: str = option(
        "1,32", "--batch-size", "-b", help="Images per pass, separated by commas.", panel=_PANEL
    )
    threads: str = option(
        "1,2", "--threads", help="Compute threads, separated by commas.", panel=_PANEL
    )
    precision: str = option(
        "fp32", "--precision", help="fp32 or bf16.", panel=_PANEL, choices=("fp32", "bf16")
    )
    backend: str = option(
        "auto", "--backend", help="Our primitives.", panel=_PANEL, choices=("auto", *BACKEND_NAMES)
    )
    turn_seconds: float = option(
        0.3, "--turn-seconds", help="Length of a turn in seconds.", panel=_PANEL, above=0
    )
    compile: bool = option(
        True,
        "--compile/--no-compile",
        help="Measure against torchvision under torch.compile too (needs a C++ compiler).",
        panel=_PANEL,
    )
    allocator: str = _allocator(
        "default", "everyone's defaults; ours keeps freed memory, as evaluation does"
    )
    onnx: bool = option(
        True,
        "--onnx/--no-onnx",
        help="Measure ONNX Runtime too, if it is installed (fp32 only).",
        panel=_PANEL,
    )


@dataclass(frozen=True, kw_only=True)
class OpsBenchSettings(BenchSettings):
    """Settings of ``bench ops``."""

    arch: str = option(
        "shufflenet_v2_x1_0", "--arch", "-a", help="Architecture that sets the sizes.", panel=_PANEL
    )
    batch_size: int = option(
        32, "--batch-size", "-b", help="Images in a feature map.", panel=_PANEL, minimum=1
    )
    device: str = option(
        "auto", "--device", help="Kind of device.", panel=_PANEL, choices=("auto", *DEVICE_NAMES)
    )
    precision: str = option(
        "fp32",
        "--precision",
        help="dtype of feature maps and convolutions, as for train. Batch-norm parameters stay float32.",
        panel=_PANEL,
        choices=("fp32", "bf16", "O2"),
    )
    threads: int | None = option(
        None, "--threads", help="Compute threads; all cores if not given.", panel=_PANEL, minimum=1
    )
    turn_seconds: float = option(
        0.1, "--turn-seconds", help="Length of a turn in seconds.", panel=_PANEL, above=0
    )
    allocator: str = _allocator("keep", "everyone's defaults")
    only: str | None = option(
        None,
        "--only",
        help="Measure only operations whose names contain one of these words, separated by commas.",
        panel=_PANEL,
    )


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """Settings that the benchmarks of loaders share."""

    image_size: int = option(
        224, "--image-size", help="Side of the crops.", panel=_PANEL, minimum=8
    )
    color_jitter: float = option(
        0.2,
        "--color-jitter",
        help="Strength of brightness, contrast and saturation jitter.",
        panel=_PANEL,
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataBenchSettings(LoadingSettings):
    """What ``data bench`` measures."""

    images: int = option(
        2000,
        "--images",
        help="Images to read: those at even distances of a larger folder, of a smaller one all as often "
        "as needed.",
        panel=_PANEL,
        minimum=2,
    )
    packed: str | None = option(
        None,
        "--packed",
        help="Packed data to compare with, several with commas between; if not given, the images are "
        "packed as JPEG and as pixels for the measurement.",
        panel=_PANEL,
    )
    scratch: str | None = option(
        None,
        "--scratch",
        help="Folder for what is packed for the measurement; the system's temporary one if not given.",
        panel=_PANEL,
    )
    batch_size: int = option(
        64, "--batch-size", "-b", help="Images of a batch.", panel=_PANEL, minimum=1
    )
    workers: int | None = option(
        None,
        "--workers",
        "-j",
        help="Our loader threads; all cores if not given.",
        panel=_PANEL,
        minimum=1,
    )
    peer_workers: str | None = option(
        None,
        "--peer-workers",
        help="Worker processes of torchvision's loader, several with commas between: a trial chooses among "
        "them; 0, 1, 2 and as many as cores if not given.",
        panel=_PANEL,
    )
    rounds: int = option(
        10, "--rounds", help="Turns that each candidate takes.", panel=_PANEL, minimum=3
    )
    turn_seconds: float = option(
        2.0, "--turn-seconds", help="How long a turn counts.", panel=_PANEL, above=0
    )


@dataclass(frozen=True, kw_only=True)
class InputBenchSettings(LoadingSettings):
    """What ``bench input`` measures."""

    data: str | None = option(
        None, "--data", help="The training data, a folder of images or packed.", panel=_PANEL
    )
    devices: int = option(
        1, "--devices", help="Devices that this machine is to feed.", panel=_PANEL, minimum=1
    )
    step_ms: float | None = option(
        None,
        "--step-ms",
        help="How long a device computes at a batch; if not given, only the loader's maximum is measured.",
        panel=_PANEL,
        above=0,
    )
    load: float | None = option(
        None,
        "--load",
        help="In place of --step-ms: devices that take this share of the loader's maximum, such as 0.8.",
        panel=_PANEL,
        above=0,
        maximum=1,
    )
    batch_size: int = option(
        256,
        "--batch-size",
        "-b",
        help="Images per step over all devices together, as of train.",
        panel=_PANEL,
        minimum=1,
    )
    workers: int | None = option(
        None,
        "--workers",
        "-j",
        help="Loader threads over all devices, as of train; all cores if not given.",
        panel=_PANEL,
        minimum=1,
    )
    seconds: float = option(
        10.0,
        "--seconds",
        help="How long each part of the measurement counts.",
        panel=_PANEL,
        above=0,
    )


def check(settings: BenchSettings | LoadingSettings) -> None:
    """Raise ``UsageError`` unless every value is allowed."""
    for item in declared(type(settings)):
        item.option.check(item.name, getattr(settings, item.name))


def architectures(text: str) -> tuple[str, ...]:
    """Parse ``all`` or comma-separated names. Return full names.

    Raises:
        UsageError: a name is unknown.
    """
    if text == "all":
        return ARCHITECTURES
    return tuple(canonical_name(name.strip()) for name in text.split(","))


def counts(flag: str, text: str, *, minimum: int = 1) -> tuple[int, ...]:
    """Parse comma-separated integers of at least ``minimum``.

    Raises:
        UsageError: the text is not valid; the message names ``flag``.
    """
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < minimum or len(set(values)) < len(values):
        raise UsageError(
            f"{flag} {text!r} is not valid: it must be different numbers from {minimum} up with commas "
            "between them, such as 1,32."
        )
    return values
