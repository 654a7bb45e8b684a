"""The model of device kernels behind calls: its rules, on the calls that torch_npu really makes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from ascend_emulator.counters import reset, snapshot
from ascend_emulator.kernel_model import Modelled, model

NORM = torch.ops.aten.native_batch_norm


@pytest.fixture
def kernels(npu: ModuleType) -> Callable[[Callable[[], Any]], Modelled]:
    npu.set_compile_mode(jit_compile=False)

    def of(run: Callable[[], Any]) -> Modelled:
        npu.synchronize()
        reset()
        run()
        npu.synchronize()
        return model(snapshot().total.signatures)

    return of


def drawn(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, device="npu").requires_grad_(grad)


def test_convolution_transforms_input_weight_and_output(kernels: Any) -> None:
    x, w = drawn(2, 58, 4, 4), drawn(58, 58, 1, 1)
    found = kernels(lambda: torch.conv2d(x, w))
    assert dict(found.kinds) == {"TransData": 3, "Conv2D": 1}
    # 58 channels are 64 in blocks of 8.
    maps, padded, weight = 2 * 58 * 16 * 4, 2 * 64 * 16 * 4, 58 * 58 * 4
    assert found.bytes_by_kind["TransData"] == 2 * (maps + padded) + weight + 58 * 64 * 4


def test_convolution_of_a_view_copies_it_first(kernels: Any) -> None:
    x, w = drawn(2, 116, 4, 4)[:, 58:], drawn(58, 58, 1, 1)
    found = kernels(lambda: torch.conv2d(x, w))
    assert dict(found.kinds) == {"Slice": 1, "TransData": 3, "Conv2D": 1}
    assert found.bytes_by_kind["Slice"] == 2 * x.numel() * 4


def backward_of(x: torch.Tensor, w: torch.Tensor, **options: Any) -> Callable[[], Any]:
    y = torch.conv2d(x, w, **options)
    inputs = [leaf for leaf in (x, w) if leaf.requires_grad]
    dy = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, inputs, dy)


@pytest.mark.parametrize(
    ("dtype", "stride", "groups", "image_grad", "wanted"),
    [
        (torch.float32, 1, 1, True, {"TransData": 5}),
        (torch.float32, 1, 1, False, {"TransData": 4}),
        (torch.float16, 1, 1, True, {"TransData": 5, "Cast": 1}),
        (torch.float32, 2, 16, True, {"TransData": 7}),
        (torch.float16, 2, 16, True, {"TransData": 7, "Cast": 1}),
        (torch.float32, 3, 1, True, {"TransData": 5, "Dilation": 1}),
        (torch.bfloat16, 3, 1, True, {"TransData": 5, "Cast": 1}),
    ],
)
def test_backward_of_a_convolution(
    kernels: Any, dtype: torch.dtype, stride: int, groups: int, image_grad: bool, wanted: dict[str, int]
) -> None:
    x = drawn(2, 16, 6, 6, dtype=dtype, grad=image_grad)
    w = drawn(16, 16 // groups, 3, 3, dtype=dtype, grad=True)
    found = kernels(backward_of(x, w, stride=stride, padding=1, groups=groups))
    both = {"Conv2DBackpropInput": 1} if image_grad else {}
    assert dict(found.kinds) == {**wanted, **both, "Conv2DBackpropFilter": 1}
    assert found.low <= found.kernels < found.high


@pytest.mark.parametrize(("channels", "own"), [(63, 2), (64, 1)])
@pytest.mark.parametrize("given", [False, True])
def test_batch_norm_fills_what_is_left_out(kernels: Any, channels: int, own: int, given: bool) -> None:
    x = drawn(2, channels, 4, 4)
    weight, bias, mean, var = (drawn(channels) for _ in range(4))
    running = (mean, var) if given else (None, None)
    found = kernels(lambda: NORM(x, weight, bias, *running, True, 0.1, 1e-5))
    assert found.kinds.get("Fill", 0) == (0 if given else 2)
    assert found.kernels == own + (0 if given else 2)
    assert found.high == found.kernels + (2 if given else 0)


@pytest.mark.parametrize("given", [False, True])
def test_backward_of_batch_norm(kernels: Any, given: bool) -> None:
    x, dy = drawn(2, 64, 4, 4), drawn(2, 64, 4, 4)
    weight, mean, var = (drawn(64) for _ in range(3))
    running = (mean, var) if given else (None, None)
    backward = torch.ops.aten.native_batch_norm_backward
    found = kernels(lambda: backward(dy, x, weight, *running, mean, var, True, 1e-5, [True] * 3))
    assert found.kernels == (2 if given else 4)


def test_cat_copies_views_and_concatenates_32_inputs(kernels: Any) -> None:
    x = drawn(2, 8, 4, 4)
    assert dict(kernels(lambda: torch.cat((x, x), 1)).kinds) == {"ConcatD": 1}
    views = [x[:, :3], x[:, 3:], x]
    assert dict(kernels(lambda: torch.cat(views, 1)).kinds) == {"Slice": 2, "ConcatD": 1}
    flat = [drawn(10) for _ in range(70)]
    # 32, 32 and 6, and then those three.
    assert dict(kernels(lambda: torch.cat(flat)).kinds) == {"ConcatD": 4}
    aligned = [drawn(16) for _ in range(70)]
    assert dict(kernels(lambda: torch.cat(aligned)).kinds) == {"ConcatD": 1}


def test_pooling_is_one_kernel(kernels: Any) -> None:
    x = drawn(2, 8, 8, 8, dtype=torch.bfloat16)
    assert kernels(lambda: torch.max_pool2d(x, 3, 2, 1)).kernels == 1


def test_unknown_operator_is_named_as_assumed(kernels: Any) -> None:
    x = drawn(4)
    found = kernels(lambda: x.exp())
    assert (found.kernels, found.low, found.high) == (1, 1, 1)
    assert found.assumed == {"aclnnExp"} and found.nbytes == 32
