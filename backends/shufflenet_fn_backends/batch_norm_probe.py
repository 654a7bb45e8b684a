"""Measurement of the third result of a chip's batch norm.

PyTorch's own kernels return the inverse standard deviation. On Ascend chips before the 950 class,
aclnnBatchNorm returns the biased variance, and aclnnBatchNormBackward takes it (ops-nn@9.1.0,
norm/batch_norm_v3/docs/aclnnBatchNorm.md, "saveInvstd"; op_kernel/batch_norm_v3_welford.h stores
``finalVar``); torch_npu returns it unchanged (op-plugin@517f2e7d, config/op_plugin_functions.yaml).
So it is measured on the chip, once per device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn_backends.primitives import ThirdResult
from shufflenet_fn_backends.support.errors import DeviceError
from shufflenet_fn_backends.support.private import mark_constant
from shufflenet_fn_backends.transforms import outside_transforms

CHANNELS: Final = (1, 63, 64)
"""CANN uses another kernel from 64 channels (aclnn_batch_norm.cpp, ``isBNV3Supported``)."""

_EPS: Final = 0.25
_TOLERANCE: Final = 0.01


class Probe(NamedTuple):
    """A batch norm with known variances: its result for one channel, and the results that are allowed."""

    channels: int
    returned: float
    var: float
    invstd: float
    kind: ThirdResult | None


# Under torch.compile the answer is a constant of the graph. Dynamo looks through `lru_cache`, and would not
# see the mark of a function in it.
@mark_constant
def measured(device: torch.device) -> ThirdResult:
    """Return what all kernels of ``device`` return as their third result; measured once.

    Raises:
        DeviceError: they do not agree, or a result is of neither kind.
    """
    return _measured(device)


@lru_cache(64)
def _measured(device: torch.device) -> ThirdResult:
    index: int | None = device.index
    if index is None:
        # The measurement runs in a new thread, whose current device is 0.
        device = torch.device(device.type, torch.get_device_module(device).current_device())
    return decide(probe(device), str(device))


def decide(probes: list[Probe], where: str) -> ThirdResult:
    """Return the kind that all ``probes`` agree on.

    Raises:
        DeviceError: they do not agree, or a result is of neither kind.
    """
    kinds = {found.kind for found in probes}
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is not None:
            return kind
    numbers = "; ".join(
        f"{found.channels} channels: {found.returned:.4g} (variance {found.var:.4g}, inverse standard "
        f"deviation {found.invstd:.4g})"
        for found in probes
    )
    raise DeviceError(
        f"batch norm on {where} returns neither the variance nor the inverse standard deviation of its input "
        f"as its third result, or not the same for every number of channels. Returned for {numbers}. "
        "Gradients and running statistics would be wrong. Install a torch_npu and a CANN that go together "
        "(docs/ascend.md), unset whatever switches jit_compile on, or use --device cpu."
    )


def probe(device: torch.device) -> list[Probe]:
    """Compute a batch norm of each of ``CHANNELS`` on ``device`` and compare the third results."""
    return [_probe(channels, device) for channels in CHANNELS]


def _probe(channels: int, device: torch.device) -> Probe:
    # A channel with scale s has mean 0 and variance 5 s². Variance and inverse deviation differ in every
    # channel.
    pattern = torch.tensor([-1.0, 1.0, -3.0, 3.0]).reshape(4, 1, 1, 1)
    scale = torch.linspace(1.0, 2.0, channels)
    var = 5.0 * scale.square()
    invstd = (var + _EPS).rsqrt()

    def returned() -> Tensor:
        x = (pattern * scale.reshape(1, -1, 1, 1)).to(device)
        ones, zeros = torch.ones(channels, device=device), torch.zeros(channels, device=device)
        return torch.native_batch_norm(x, ones, zeros, None, None, True, 0.0, _EPS)[2].cpu()

    found = outside_transforms(returned)
    kind: ThirdResult | None = None
    if _close(found, var):
        kind = "var"
    elif _close(found, invstd):
        kind = "invstd"
    return Probe(channels, float(found[-1]), float(var[-1]), float(invstd[-1]), kind)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= _TOLERANCE * expected).all())
