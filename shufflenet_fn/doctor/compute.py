"""Stages about devices: which there are, and whether one computes what the CPU does."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch
import torch.nn.functional as nnf

from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn_backends.errors import DeviceError
from shufflenet_fn_backends.fused.build import find_compiler
from shufflenet_fn_backends.runtimes import cuda
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.npu.probe import no_device
from shufflenet_fn_backends.runtimes.select import runtime_of

_TOLERANCE = 2e-3
"""Of a float32 convolution, relative to its largest value: HF32 and TF32 keep 10 bits or so of a factor."""


def devices(facts: dict[str, Any]) -> Finding:
    """The devices that training would take, by ``--device``."""
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
            return Finding(FAILED, "no NPU", "Mend torch_npu first: see above.")
        else:
            notes.append("NPUs cannot be used: torch_npu does not load, see above.")
    no_cuda = cuda.unavailable_reason()
    if wanted in ("auto", "cuda") and no_cuda is None:
        return _found("cuda", torch.cuda.device_count(), torch.cuda.get_device_name())
    if wanted == "cuda":
        return Finding(FAILED, "no GPU", str(no_cuda))
    found = _found("cpu", runtime_of("cpu").device_count(), platform.machine())
    if notes:
        return found._replace(status=WARNING, fix=" ".join(notes))
    return found


def kernel(facts: dict[str, Any]) -> Finding:
    """Convolution, batch norm and ReLU, forward and backward, against float64 on the CPU."""
    runtime = _chosen(facts)
    runtime.prepare()
    runtime.set_device(0)
    runtime.tune()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 12, 12, generator=generator)
    weight = torch.randn(8, 8, 3, 3, generator=generator)
    expected = _block(x.double(), weight.double())
    start = time.perf_counter()
    found = _block(x.to(runtime.device(0)), weight.to(runtime.device(0)))
    runtime.synchronize()
    seconds = time.perf_counter() - start
    errors = [
        (a.cpu() - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)
    ]
    error = float(torch.stack(errors).max())  # NaN if any is, which Python's max may pass over
    memory = runtime.memory()
    details = {"relative_error": error, "first_time_s": seconds, **memory._asdict()}
    text = (
        f"convolution and batch norm on {runtime.device(0)}: largest relative error {error:.1e}, "
        f"{memory.total / 2**30:.1f} GiB of memory"
    )
    if not error <= _TOLERANCE:
        return Finding(
            FAILED,
            text,
            "The device computes something else: update driver, CANN and torch_npu (or CUDA and torch) to "
            "versions that go together.",
            details,
        )
    if runtime.name == "cpu":
        return _with_compiler(Finding(OK, text, details=details))
    return Finding(OK, text, details=details)


def _with_compiler(finding: Finding) -> Finding:
    try:
        command = " ".join(find_compiler())
    except DeviceError as error:
        text = f"{finding.text}; no C++ compiler for the kernels of backend cpu"
        return finding._replace(status=WARNING, text=text, fix=str(error))
    return finding._replace(text=f"{finding.text}; compiler for backend cpu: {command}")


def _block(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = nnf.batch_norm(nnf.conv2d(x, weight, padding=1), None, None, training=True).relu()
    grads = torch.autograd.grad((y * y).mean(), (x, weight))
    return (y.detach(), *grads)


def _found(kind: str, count: int, chip: str) -> Finding:
    what = "cores" if kind == "cpu" else "devices"
    text = f"{kind}: {count} {what} ({chip})"
    return Finding(OK, text, details={"kind": kind, "count": count, "chip": chip})


def _chosen(facts: dict[str, Any]) -> Runtime:
    return runtime_of(facts["devices"]["kind"])
