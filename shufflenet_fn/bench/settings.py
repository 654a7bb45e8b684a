"""The settings of the benchmarks. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from shufflenet_fn.config import options
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.model.config import ARCHITECTURES, canonical_name
from shufflenet_fn_backends.support.errors import UsageError

_PANEL = "Measurement"
_option = partial(options.option, panel=_PANEL)
_as_train = partial(options.like, TrainSettings, panel=_PANEL)


_device = partial(_as_train, "device", help="Kind of device.")
_threads = partial(_option, None, "--threads", help="Compute threads; all cores if not given.", minimum=1)
_compile = partial(
    _option,
    True,
    "--compile/--no-compile",
    help="Measure against torchvision under torch.compile too (needs a C++ compiler).",
)


def _turn_seconds(default: float) -> Any:
    return _option(default, "--turn-seconds", help="Length of a turn in seconds.", above=0)


def _allocator(default: str, of_default: str) -> Any:
    help = f"default: {of_default}. keep: freed memory is kept by the process, for every candidate."
    return _option(default, "--allocator", help=help, choices=("default", "keep"))


def _rounds(default: int) -> Any:
    return _option(default, "--rounds", help="Turns that each candidate takes.", minimum=3)


def _sizes(default: str, help: str) -> Any:
    return _option(default, "--batch-size", "-b", help=help)


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings that all benchmarks share."""

    image_size: int = _as_train("image_size", help="Side of the images.")


@dataclass(frozen=True, kw_only=True)
class StepBenchSettings(BenchSettings):
    """Settings of ``bench step``."""

    rounds: int = _rounds(20)
    arch: str = _as_train("arch", help="Architecture, several separated by commas, or all.")
    device: str = _device()
    batch_size: str = _sizes("64", "Images per step and device, several separated by commas.")
    precision: str = _as_train(
        "precision",
        "fp32",
        help="As for train. O1 and O2 (float16 with a loss scale) are not for a CPU.",
        choices=("fp32", "bf16", "O1", "O2"),
    )
    backend: str = _as_train(
        "backend",
        help="Our backend. auto: that of train on a CPU, all backends on other devices, where several can be "
        "given, separated by commas.",
        choices=(),
    )
    threads: int | None = _threads()
    allocator: str = _allocator("default", "everyone's defaults; ours keeps freed memory, as training does")
    steps: int | None = _option(
        None,
        "--steps",
        "--steps-per-sync",
        help="Steps in a turn. The host waits for the device after each turn. Default: 1 on a CPU, 20 on "
        "other devices.",
        minimum=1,
    )
    compile: bool = _compile()
    ours_compile: bool = _option(
        False, "--ours-compile/--no-ours-compile", help="Measure our own step under torch.compile as well."
    )
    profile: str | None = _option(
        None,
        "--profile",
        help="Folder for a profile of each candidate, for a table of its kernels; not on a CPU.",
    )
    keep: bool = _option(
        False,
        "--keep/--no-keep",
        help="Keep the result in the user's cache, where train --backend auto uses it; not on a CPU.",
    )


@dataclass(frozen=True, kw_only=True)
class InferBenchSettings(BenchSettings):
    """Settings of ``bench infer``, which measures every batch size with every number of threads."""

    rounds: int = _rounds(20)
    arch: str = _as_train("arch", help="Architecture.")
    batch_size: str = _sizes("1,32", "Images per pass, separated by commas.")
    threads: str = _option("1,2", "--threads", help="Compute threads, separated by commas.")
    precision: str = _as_train("precision", "fp32", help="fp32 or bf16.", choices=("fp32", "bf16"))
    backend: str = _as_train("backend", help="Our primitives.")
    turn_seconds: float = _turn_seconds(0.3)
    compile: bool = _compile()
    allocator: str = _allocator("default", "everyone's defaults; ours keeps freed memory, as evaluation does")
    onnx: bool = _option(
        True, "--onnx/--no-onnx", help="Measure ONNX Runtime too, if it is installed (fp32 only)."
    )


@dataclass(frozen=True, kw_only=True)
class OpsBenchSettings(BenchSettings):
    """Settings of ``bench ops``."""

    rounds: int = _rounds(20)
    arch: str = _as_train("arch", help="Architecture that sets the sizes.")
    batch_size: int = _as_train("batch_size", 32, help="Images in a feature map.")
    device: str = _device()
    precision: str = _as_train(
        "precision",
        "fp32",
        help="dtype of feature maps and convolutions, as for train. Batch-norm parameters stay float32.",
        choices=("fp32", "bf16", "O2"),
    )
    threads: int | None = _threads()
    turn_seconds: float = _turn_seconds(0.1)
    allocator: str = _allocator("keep", "everyone's defaults")
    only: str | None = _option(
        None,
        "--only",
        help="Measure only operations whose names contain one of these words, separated by commas.",
    )


@dataclass(frozen=True, kw_only=True)
class LoadingSettings(BenchSettings):
    """Settings that the benchmarks of loaders share."""

    color_jitter: float = _as_train("color_jitter")


@dataclass(frozen=True, kw_only=True)
class DataBenchSettings(LoadingSettings):
    """Settings of ``data bench``."""

    images: int = _option(
        2000,
        "--images",
        help="Number of images to read: evenly spaced images of a larger folder, or all images of a smaller "
        "one, repeated.",
        minimum=2,
    )
    packed: str | None = _option(
        None,
        "--packed",
        help="Packed data to compare with, several separated by commas; if not given, the images are "
        "packed as JPEG and as pixels for the measurement.",
    )
    scratch: str | None = _option(
        None,
        "--scratch",
        help="Folder for data packed for the measurement; the system's temporary folder if not given.",
    )
    batch_size: int = _as_train("batch_size", 64, help="Images of a batch.")
    workers: int | None = _as_train("workers", help="Our loader threads; all cores if not given.", minimum=1)
    peer_workers: str | None = _option(
        None,
        "--peer-workers",
        help="Numbers of worker processes of torchvision's loader, separated by commas; a trial selects the "
        "best. If not given: 0, 1, 2 and the number of cores.",
    )
    rounds: int = _rounds(10)
    turn_seconds: float = _turn_seconds(2.0)


@dataclass(frozen=True, kw_only=True)
class InputBenchSettings(LoadingSettings):
    """Settings of ``bench input``."""

    data: str | None = _as_train("data", help="The training data, a folder of images or packed.")
    devices: int = _as_train("devices", 1, help="Devices that this machine is to feed.")
    step_ms: float | None = _option(
        None,
        "--step-ms",
        help="Compute time of a device per batch; if not given, only the loader's maximum is measured.",
        above=0,
    )
    load: float | None = _option(
        None,
        "--load",
        help="Instead of --step-ms: the devices demand this share of the loader's maximum, such as 0.8.",
        above=0,
        maximum=1,
    )
    batch_size: int = _as_train("batch_size")
    workers: int | None = _as_train(
        "workers", help="Loader threads for all devices, as for train; all cores if not given.", minimum=1
    )
    seconds: float = _option(10.0, "--seconds", help="How long each part of the measurement counts.", above=0)


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
