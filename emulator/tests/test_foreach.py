"""Operators on lists of tensors, and those of loss scaling: the NPU against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ascend_emulator.pytest_plugin import OnEmulator

Lists = list[list[Tensor]]
SHAPES = ((3, 4), (5,), (), (2, 0), (2, 3, 3))
NPU = "npu:0"
pytestmark = pytest.mark.usefixtures("npu")

CALLS: dict[str, Callable[[Lists], Any]] = {
    "add": lambda x: torch._foreach_add(x[0], x[1]),
    "add alpha": lambda x: torch._foreach_add(x[0], x[1], alpha=-0.5),
    "add scalar": lambda x: torch._foreach_add(x[0], 0.5),
    "add scalars": lambda x: torch._foreach_add(x[0], [0.5, 1, 2, 3, 4]),
    "add_": lambda x: torch._foreach_add_(x[0], x[1], alpha=2),
    "add scalar_": lambda x: torch._foreach_add_(x[0], 2),
    "sub": lambda x: torch._foreach_sub(x[0], x[1]),
    "sub_": lambda x: torch._foreach_sub_(x[0], x[1], alpha=2),
    "sub scalar": lambda x: torch._foreach_sub(x[0], 0.5),
    "mul": lambda x: torch._foreach_mul(x[0], x[1]),
    "mul_": lambda x: torch._foreach_mul_(x[0], x[1]),
    "mul scalar": lambda x: torch._foreach_mul(x[0], 0.9),
    "mul scalar_": lambda x: torch._foreach_mul_(x[0], 0.9),
    "mul scalars_": lambda x: torch._foreach_mul_(x[0], [0.5, 1.0, 2.0, 3.0, 4.0]),
    "mul tensor": lambda x: torch._foreach_mul(x[0], x[1][2]),
    "mul tensor_": lambda x: torch._foreach_mul_(x[0], x[1][2]),
    "div": lambda x: torch._foreach_div(x[0], x[2]),
    "div scalar": lambda x: torch._foreach_div(x[0], 3.0),
    "div scalars": lambda x: torch._foreach_div(x[0], [1.0, 2.0, 3.0, 4.0, 5.0]),
    "div tensor_": lambda x: torch._foreach_div_(x[0], x[2][2]),
    "addcmul": lambda x: torch._foreach_addcmul(x[0], x[1], x[2], value=0.5),
    "addcmul_": lambda x: torch._foreach_addcmul_(x[0], x[1], x[2], value=0.5),
    "addcmul scalars": lambda x: torch._foreach_addcmul(x[0], x[1], x[2], [1.0, 2, 3, 4, 5]),
    "addcdiv": lambda x: torch._foreach_addcdiv(x[0], x[1], x[2], value=0.5),
    "addcdiv_": lambda x: torch._foreach_addcdiv_(x[0], x[1], x[2], value=0.5),
    "addcdiv scalars_": lambda x: torch._foreach_addcdiv_(x[0], x[1], x[2], [1.0, 2, 3, 4, 5]),
    "lerp": lambda x: torch._foreach_lerp(x[0], x[1], 0.1),
    "lerp_": lambda x: torch._foreach_lerp_(x[0], x[1], 0.1),
    "lerp list": lambda x: torch._foreach_lerp(x[0], x[1], x[2]),
    "maximum": lambda x: torch._foreach_maximum(x[0], x[1]),
    "maximum scalar": lambda x: torch._foreach_maximum(x[0], 0.1),
    "clamp_min": lambda x: torch._foreach_clamp_min(x[0], 0.1),
    "clamp_max_": lambda x: torch._foreach_clamp_max_(x[0], 0.1),
    "minimum": lambda x: torch._foreach_minimum(x[0], x[1]),
    "pow": lambda x: torch._foreach_pow(x[2], 2.0),
    "pow list": lambda x: torch._foreach_pow(x[2], x[0]),
    "pow scalars": lambda x: torch._foreach_pow(x[2], [1.0, 2.0, 3.0, 0.5, 1.5]),
    "pow of scalar": lambda x: torch._foreach_pow(2.0, x[0]),
    "sub scalars_": lambda x: torch._foreach_sub_(x[0], [1.0, 2.0, 3.0, 4.0, 5.0]),
    "maximum scalars": lambda x: torch._foreach_maximum(x[0], [0.1, 0.2, 0.3, 0.4, 0.5]),
    "minimum scalars": lambda x: torch._foreach_minimum(x[0], [0.1, 0.2, 0.3, 0.4, 0.5]),
    "addcmul tensor_": lambda x: torch._foreach_addcmul_(x[0], x[1], x[2], x[2][1].cpu()),
    "addcdiv tensor_": lambda x: torch._foreach_addcdiv_(x[0], x[1], x[2], x[2][1].cpu()),
    "sqrt": lambda x: torch._foreach_sqrt(x[2]),
    "rsqrt": lambda x: torch._foreach_rsqrt(x[2]),
    "reciprocal": lambda x: torch._foreach_reciprocal(x[2]),
    "neg": lambda x: torch._foreach_neg(x[0]),
    "abs": lambda x: torch._foreach_abs(x[0]),
    "exp": lambda x: torch._foreach_exp(x[0]),
    "log": lambda x: torch._foreach_log(x[2]),
    "sign": lambda x: torch._foreach_sign(x[0]),
    "sigmoid": lambda x: torch._foreach_sigmoid(x[0]),
    "round": lambda x: torch._foreach_round(x[0]),
    "floor": lambda x: torch._foreach_floor(x[0]),
    "norm": lambda x: torch._foreach_norm(x[0]),
    "norm 1": lambda x: torch._foreach_norm(x[0], 1),
    "zero_": lambda x: torch._foreach_zero_(x[0]),
    "copy_": lambda x: torch._foreach_copy_(x[0], x[1]),
}

CALLS |= {
    name: lambda x, name=name: getattr(torch, f"_foreach_{name}")(x[2])
    for name in (
        *("acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "expm1"),
        *("log10", "log1p", "log2", "sin", "sinh", "tan", "tanh"),
    )
}


def _lists(dtype: torch.dtype) -> Lists:
    rng = torch.Generator().manual_seed(3)
    plain = [[torch.randn(shape, generator=rng).to(dtype) for shape in SHAPES] for _ in range(2)]
    positive = [torch.rand(shape, generator=rng).add(0.5).to(dtype) for shape in SHAPES]
    return [*plain, positive]


def _same(actual: Any, expected: Any, dtype: torch.dtype) -> None:
    allowed = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(dtype, 1e-6)
    assert (actual is None) == (expected is None)
    for a, e in zip(actual or (), expected or (), strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=allowed, atol=allowed, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_foreach(name: str, dtype: torch.dtype) -> None:
    if name.startswith("norm"):  # of nothing, and of one number, torch_npu computes them apart
        shapes = slice(None, 2)
    else:
        shapes = slice(None)
    here = [tensors[shapes] for tensors in _lists(dtype)]
    there = [[x.to(NPU) for x in tensors] for tensors in here]
    _same(CALLS[name](there), CALLS[name](here), dtype)
    for left, right in zip(there, here, strict=True):
        _same(left, right, dtype)


def test_foreach_supports_many_tensors() -> None:
    here = [torch.full((3,), float(i)) for i in range(300)]
    there = [x.to(NPU) for x in here]
    torch._foreach_mul_(there, 2.0)
    torch._foreach_add_(there, there)
    _same(there, [x * 4 for x in here], torch.float32)


@pytest.mark.parametrize("bad", [None, float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_unscaling_finds_what_is_not_finite(bad: float | None, dtype: torch.dtype) -> None:
    grads = [torch.full((4,), 8.0, dtype=dtype, device=NPU) for _ in range(3)]
    if bad is not None:
        grads[1][2] = bad
    found = torch.zeros((), device=NPU)
    torch._amp_foreach_non_finite_check_and_unscale_(grads, found, torch.tensor(0.25, device=NPU))
    assert found.item() == (bad is not None)
    assert torch.equal(grads[0].cpu(), torch.full((4,), 2.0, dtype=dtype))


def test_scale_halves_on_overflow_and_doubles_after_interval() -> None:
    scale, tracker = torch.tensor([64.0], device=NPU), torch.tensor([0], dtype=torch.int32).to(NPU)
    clean, found = torch.zeros(1, device=NPU), torch.ones(1, device=NPU)
    seen = []
    for outcome in (found, clean, clean, clean):
        torch._amp_update_scale_(scale, tracker, outcome, 2.0, 0.5, 2)
        seen.append((scale.item(), tracker.item()))
    assert seen == [(32.0, 0), (32.0, 1), (64.0, 0), (64.0, 1)]


def test_grad_scaler_skips_the_step_that_overflows() -> None:
    weight = torch.nn.Parameter(torch.ones(4, device=NPU))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("npu", init_scale=2.0**10)
    for factor, expected in ((1.0, 0.0), (float("inf"), 0.0), (0.5, -0.5)):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight.detach().cpu(), torch.full((4,), expected))
    assert scaler.get_scale() == 2.0**9


_SCALED_ON_910A = """
import torch, torch_npu
torch.npu.set_compile_mode(jit_compile=False)
weight = torch.nn.Parameter(torch.ones(4, device="npu"))
optimizer = torch.optim.SGD([weight], lr=1.0)
for factor in (1.0, 100.0, 0.5):
    scaler = torch.amp.GradScaler("npu", init_scale=1024.0)
    optimizer.zero_grad()
    scaler.scale((weight.half() * factor).sum().float()).backward()
    scaler.step(optimizer)
    print(weight.detach()[0].item())
try:
    scaler.update()
except RuntimeError as error:
    print(error)
"""


def test_grad_scaler_sees_an_overflow_where_float16_saturates(on_emulator: OnEmulator) -> None:
    """On the older chip no gradient is ever infinite: the flag says that one would have been.

    The operator that updates the scale is not there (ops-math@9.1.0 aclnnAmpUpdateScale.md).
    """
    ran = on_emulator(_SCALED_ON_910A, imported=True, soc="Ascend910A")
    assert ran.out.split()[:3] == ["0.0", "0.0", "-0.5"], ran.err
    assert "aclnnAmpUpdateScale: Ascend910A has no such operator" in ran.out
