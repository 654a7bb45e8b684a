"""Stages for devices, which must compute correct results, and for the loader. They need torch."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.launch import launch
from shufflenet_fn.distributed.world import World
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn_backends.fused.library import find_compiler
from shufflenet_fn_backends.runtimes import cuda
from shufflenet_fn_backends.runtimes.npu.chip import is_atlas_training
from shufflenet_fn_backends.runtimes.npu.probe import no_device
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import DeviceError
from shufflenet_fn_backends.support.limits import affinity_cores, usable_cores

_TOLERANCE: Final[Mapping[torch.dtype, float]] = {
    torch.float32: 2e-3,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
"""Relative to the largest value: four rounding errors. A value has 8 significant bits in bfloat16 and 11 in
float16. In float32 only 11 bits are assumed as well, because convolutions may use HF32, TF32 or, on the first
generation of NPUs, float16."""

_UNLISTED: Final = "CANN 9's documents list no convolution for this series; this chip has just computed it."
_CHANNELS = 58  # of a branch in stage 2 of x1_0


def devices(facts: dict[str, Any]) -> Finding:
    """Find the devices that training would use with this ``--device``."""
    wanted = facts["device"]
    notes = []
    if wanted in ("auto", "npu") and facts["torch_npu"]["status"] != SKIPPED:
        if facts["torch_npu"]["status"] != FAILED:
            count = runtime_of("npu").device_count()
            if count:
                return _found("npu", count, runtime_of("npu").chip())
            if wanted == "npu":
                return Finding(FAILED, "no NPU", f"{no_device()}.")
            notes.append(f"{no_device()}.")
        elif wanted == "npu":
            return Finding(FAILED, "no NPU", "Fix torch_npu first: see above.")
        else:
            notes.append("NPUs cannot be used: torch_npu does not load, see above.")
    no_cuda = cuda.unavailable_reason()
    if wanted in ("auto", "cuda") and no_cuda is None:
        return _found("cuda", torch.cuda.device_count(), torch.cuda.get_device_name())
    if wanted == "cuda":
        return Finding(FAILED, "no GPU", str(no_cuda))
    found = _found("cpu", runtime_of("cpu").device_count(), platform.machine())
    return found._replace(status=WARNING, fix=" ".join(notes)) if notes else found


def kernel(facts: dict[str, Any]) -> Finding:
    """Compare convolutions, batch norm and max pooling, forward and backward, with float64 on the CPU."""
    runtime = runtime_of(facts["devices"]["kind"])
    runtime.prepare()
    runtime.set_device(0)
    runtime.tune()
    device, half = runtime.device(0), runtime.half().dtype
    start = time.perf_counter()
    dtypes = [torch.float32] if half is None else [torch.float32, half]
    errors = {dtype: compare_operators(device, dtype) for dtype in dtypes}
    runtime.synchronize()
    seconds = time.perf_counter() - start
    memory = runtime.memory()
    details = {
        "relative_error": _worst(errors[torch.float32]),
        "errors": {_short(dtype): found for dtype, found in errors.items()},
        "first_time_s": seconds,
        **memory._asdict(),
    }
    worst = ", ".join(f"{_worst(found):.1e} in {_short(dtype)}" for dtype, found in errors.items())
    text = (
        f"convolutions, batch norm and pooling on {device}, forward and backward: largest relative error "
        f"{worst}; {memory.total / 2**30:.1f} GiB of memory"
    )
    wrong = [
        f"{name} in {_short(dtype)} ({error:.1e}, at most {_TOLERANCE[dtype]:.1e})"
        for dtype, found in errors.items()
        for name, error in found.items()
        if not error <= _TOLERANCE[dtype]
    ]
    if wrong:
        return Finding(
            FAILED,
            f"{text}. Wrong: {', '.join(wrong)}",
            "The device computes something else: update driver, CANN and torch_npu (or CUDA and torch) to "
            "versions that go together.",
            details,
        )
    if runtime.name == "cpu":
        try:
            command = " ".join(find_compiler())
        except DeviceError as error:
            text += "; no C++ compiler for the kernels of backend cpu"
            return Finding(WARNING, text, str(error), details)
        return Finding(OK, f"{text}; compiler for backend cpu: {command}", details=details)
    known = runtime.float32_warning()
    if known is not None:
        unlisted = f" {_UNLISTED}" if is_atlas_training(runtime.chip()) else ""
        return Finding(WARNING, text, f"{known}.{unlisted}", details)
    return Finding(OK, text, details=details)


def compare_operators(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return the largest relative error of each operator's result and gradients on ``device`` in ``dtype``.

    The expected values are computed in float64 on the CPU. The error is NaN if any value is NaN.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, channels = random(2, _CHANNELS, 12, 12), _CHANNELS
    # Integers that are exact in every dtype, all different within a map, so that each maximum is unique.
    different = torch.stack([torch.randperm(144, generator=generator) for _ in range(2 * channels)])
    cases: dict[str, tuple[_Operator, tuple[Tensor, ...]]] = {
        f"convolution (groups {channels})": (
            lambda x, w: nnf.conv2d(x, w, padding=1, groups=channels),
            (x, random(channels, 1, 3, 3)),
        ),
        "convolution (1x1)": (nnf.conv2d, (x, random(channels, channels, 1, 1))),
        "batch norm": (_batch_norm, (x, random(channels), random(channels))),
        "max pooling": (
            lambda x: nnf.max_pool2d(x, 3, stride=2, padding=1),
            (different.reshape(2, channels, 12, 12) - 72.0,),
        ),
    }
    return {name: _error(operator, inputs, device, dtype) for name, (operator, inputs) in cases.items()}


_Operator = Callable[..., Tensor]


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # Weight and bias are float32 in training, and float64 for the expected values.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return nnf.batch_norm(x, None, None, weight.to(dtype), bias.to(dtype), training=True)


def _error(
    operator: _Operator, inputs: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype
) -> float:
    inputs = tuple(value.to(dtype) for value in inputs)
    expected = _with_gradients(operator, tuple(value.double() for value in inputs))
    found = _with_gradients(operator, tuple(value.to(device) for value in inputs))
    errors = [
        (a.cpu().double() - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)
    ]
    return float(torch.stack(errors).max())  # NaN if any value is NaN; Python's max may ignore it


def _with_gradients(operator: _Operator, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = tuple(value.clone().requires_grad_() for value in inputs)
    y = operator(*inputs)
    # Equal on every device and exact in every dtype.
    weights = (torch.arange(y.numel()) % 7 - 3.0).reshape(y.shape)
    return (y.detach(), *torch.autograd.grad(y, inputs, weights.to(y.device, y.dtype)))


def _worst(errors: dict[str, float]) -> float:
    return float(torch.tensor(list(errors.values()), dtype=torch.float64).max())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _found(kind: str, count: int, chip: str) -> Finding:
    what = "cores" if kind == "cpu" else "devices"
    if kind == "cpu" and (seen := affinity_cores()) > count:
        what = f"of {seen} cores, by the quota of this container"
    text = f"{kind}: {count} {what} ({chip})"
    return Finding(OK, text, details={"kind": kind, "count": count, "chip": chip})


_SIZE = 2_300_000
"""Number of float32 values, as in the gradient of x1_0."""

_FIX = "Update the driver and CANN (or CUDA) to versions that go together."


def collective(facts: dict[str, Any]) -> Finding:
    """Compute a sum over two ranks, by the collectives that training uses on this device."""
    kind, count = facts["devices"]["kind"], facts["devices"]["count"]
    runtime = runtime_of(kind)
    if count < 2 and not runtime.shares:
        return Finding(SKIPPED, f"{runtime.dist_backend} needs two devices, and there is one")
    wrong, seconds = launch(_rank, kind, processes=2)
    details = {"backend": runtime.dist_backend, "seconds": seconds}
    if wrong:
        return Finding(FAILED, f"{runtime.dist_backend}: the sum over two ranks is wrong", _FIX)
    text = f"{runtime.dist_backend}: two ranks sum {_SIZE * 4 / 1e6:.1f} MB in {1000 * seconds:.1f} ms"
    return Finding(OK, text, details=details)


def _rank(kind: str, world: World) -> tuple[bool, float]:
    """Return whether the sum is wrong, and the seconds of a second sum."""
    runtime = runtime_of(kind)
    runtime.prepare()
    runtime.set_device(world.local_rank)
    device = runtime.device(world.local_rank)
    with process_group(world, runtime.dist_backend, timeout_s=300.0):
        values = torch.full((_SIZE,), float(world.rank + 1), device=device)
        dist.all_reduce(values)
        wrong = bool((values != sum(range(1, world.size + 1))).any())
        runtime.synchronize()
        start = time.perf_counter()
        dist.all_reduce(values)
        runtime.synchronize()
        return wrong, time.perf_counter() - start


_BATCH, _BATCHES = 32, 4


def loader(facts: dict[str, Any]) -> Finding:
    """Read a few batches of generated JPEGs through the loader that training uses."""
    from shufflenet_fn.data.demo import write_demo
    from shufflenet_fn.data.loader import train_loader
    from shufflenet_fn.data.native.reader import choose_image_reader
    from shufflenet_fn.data.opening import open_train_val
    from shufflenet_fn.data.transforms import TrainTransform

    threads, chosen = usable_cores(), choose_image_reader("auto")
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-") as folder:
        train, _ = open_train_val(write_demo(Path(folder) / "demo", train_per_class=16))
        start = time.perf_counter()
        with train_loader(
            train,
            TrainTransform(224, scale=(0.08, 1.0), jitter=0.2, flip=0.5),
            seed=0,
            global_batch=_BATCH,
            stop_step=_BATCHES,
            threads=threads,
            native=chosen.reader,
        ) as batches:
            for _ in batches:
                pass
        seconds = time.perf_counter() - start
    rate = _BATCH * _BATCHES / seconds
    text = (
        f"{_BATCH * _BATCHES} JPEGs decoded and augmented, {rate:.0f} images/s with {threads} threads; "
        f"{chosen.reason}"
    )
    return Finding(OK, text, details={"images_per_s": rate, "threads": threads})
