"""What a launch is counted as, with the bytes it reads and writes; and overflow, asked for or real."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ascend_emulator.counters import Kernel, reset, snapshot
from ascend_emulator.pytest_plugin import OnEmulator

NPU = "npu:0"
KIB = 1024


def _counted(npu: ModuleType, call: Callable[[], object]) -> dict[str, Kernel]:
    npu.synchronize()
    reset()
    call()
    npu.synchronize()
    return dict(snapshot().total.kernels)


@pytest.fixture
def x(npu: ModuleType) -> Tensor:
    """64 × 64 floats: 16 KiB."""
    return torch.ones(64, 64, device=NPU)


CASES: dict[str, tuple[Callable[[Tensor], object], dict[str, Kernel]]] = {
    "reads one, writes one": (lambda x: torch.exp(x), {"aclnnExp": Kernel(1, 16 * KIB, 16 * KIB)}),
    "reads two": (lambda x: torch.mul(x, x.t()), {"aclnnMul": Kernel(1, 32 * KIB, 16 * KIB)}),
    "in place": (lambda x: x.mul_(x), {"aclnnInplaceMul": Kernel(1, 32 * KIB, 16 * KIB)}),
    "half of a tensor": (lambda x: x[:, ::2].exp(), {"aclnnExp": Kernel(1, 8 * KIB, 8 * KIB)}),
    "expanded: each element once": (
        lambda x: x[:1].expand(64, 64).contiguous(),
        {"aclnnInplaceCopy": Kernel(1, 256, 16 * KIB)},
    ),
    "overlapping: what is spanned": (
        lambda x: x.flatten().unfold(0, 64, 1).exp(),
        {"aclnnExp": Kernel(1, 16 * KIB, 4033 * 64 * 4)},
    ),
    "selected rows": (
        lambda x: x.index_select(0, torch.tensor([3, 5], dtype=torch.int32).to(NPU)),
        {"aclnnIndexSelect": Kernel(1, 512 + 8, 512)},
    ),
    "several outputs": (lambda x: x.max(1), {"aclnnMaxDim": Kernel(1, 16 * KIB, 256 + 512)}),
    "nothing to write": (lambda x: x[:0].exp(), {}),
    "a list": (
        lambda x: torch._foreach_mul([x, x[:32]], 2.0),
        {"aclnnForeachMulScalarV2": Kernel(1, 24 * KIB, 24 * KIB)},
    ),
    "a view": (lambda x: x.t()[3:].reshape(-1, 1, 64)[:, 0], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_launches_and_bytes(npu: ModuleType, x: Tensor, name: str) -> None:
    call, expected = CASES[name]
    assert _counted(npu, lambda: call(x)) == expected


def test_a_training_step_of_one_layer(npu: ModuleType) -> None:
    """No launch is hidden and none is counted twice."""
    layer = torch.nn.Conv2d(3, 4, 3, bias=False).to(NPU)
    norm = torch.nn.BatchNorm2d(4).to(NPU)
    images = torch.ones(2, 3, 8, 8, device=NPU)

    def step() -> None:
        torch.relu_(norm(layer(images))).mean().backward()

    step()
    launches = {name: kernel.launches for name, kernel in _counted(npu, step).items()}
    assert launches == {
        "aclnnConvolution": 1,
        "aclnnBatchNorm": 1,
        "aclnnInplaceAdds": 1,  # num_batches_tracked
        "aclnnInplaceRelu": 1,
        "aclnnMean": 1,
        "aclnnInplaceFillScalar": 1,  # the gradient of the loss
        "aclnnDivs": 1,
        "aclnnThresholdBackward": 1,
        "aclnnBatchNormBackward": 1,
        "aclnnConvolutionBackward": 1,
        "aclnnInplaceAdd": 3,  # onto the gradients of the step before
    }


def test_injected_overflow_gives_infinity(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import torch, torch_npu
x = torch.ones(4, device="npu")
for _ in range(3):
    print(torch.isfinite((x * x).cpu()).all().item())
""",
        imported=True,
        faults="overflow:aclnnMul@2",
    )
    assert ran.out.split() == ["True", "False", "True"], ran.err


def test_float16_beyond_its_range(npu: ModuleType) -> None:
    """An infinity, and no flag. (``test_torch_npu.py`` has the older chip, which clamps and sets one.)"""
    library, status = ctypes.CDLL("libascendcl.so"), (ctypes.c_int32 * 8)()
    x = torch.full((4,), 60000, dtype=torch.float16).to(NPU)
    assert (x * 2).cpu()[0].item() == torch.inf
    npu.synchronize()
    assert library.aclrtGetOverflowStatus(status, 32, None) == 0
    assert status[0] == 0
