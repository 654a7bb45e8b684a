"""What an operator does not take is refused by name, as CANN refuses it, and the computation goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.device_failures import synchronize

NPU = "npu:0"
pytestmark = pytest.mark.usefixtures("npu")


def _image(dtype: torch.dtype) -> Tensor:
    return torch.ones(1, 2, 4, 4, dtype=dtype, device=NPU)


def _conv(dtype: torch.dtype) -> Tensor:
    return F.conv2d(_image(dtype), torch.ones(2, 2, 3, 3, dtype=dtype, device=NPU))


REFUSED: dict[str, tuple[str, str, Callable[[], Tensor]]] = {
    "convolution": ("aclnnConvolution", "DT_DOUBLE", lambda: _conv(torch.float64)),
    "max pooling": ("aclnnMaxPool2dWithMask", "DT_DOUBLE", lambda: F.max_pool2d(_image(torch.float64), 2)),
    "pooling": (
        "aclnnAdaptiveAvgPool2d",
        "DT_DOUBLE",
        lambda: F.adaptive_avg_pool2d(_image(torch.float64), 2),
    ),
    "product": (
        "aclnnMatmul",
        "DT_DOUBLE",
        lambda: _image(torch.float64)[0, 0] @ _image(torch.float64)[0, 0],
    ),
    "relu": ("aclnnRelu", "DT_DOUBLE", lambda: torch.relu(_image(torch.float64))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_dtype_that_the_chip_does_not_take(name: str) -> None:
    operator, dtype, call = REFUSED[name]
    with pytest.raises(RuntimeError) as refusal:
        call()
        synchronize()
    text = str(refusal.value)
    assert operator in text and dtype in text and "161002" in text
    assert "should be in dtype support list [DT_FLOAT, DT_FLOAT16, DT_BFLOAT16" in text
    assert torch.equal((_image(torch.float32) + 1).cpu(), torch.full((1, 2, 4, 4), 2.0))


def test_missing_operator_names_itself_and_its_file() -> None:
    with pytest.raises(RuntimeError) as refusal:
        torch.linalg.svd(torch.eye(3, device=NPU))
        synchronize()
    text = str(refusal.value)
    assert "aclnn" in text and "ascend_emulator/sources/aclnn/" in text
