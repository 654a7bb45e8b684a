"""Every emulated operator that is used, on the NPU against the CPU: results, gradients and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ascend_emulator.pytest_plugin import OnEmulator
from tests.arrangement_table import ARRANGEMENTS
from tests.gradient_table import GRADIENTS
from tests.in_place_table import MORE_CASES
from tests.operator_table import CASES, Case, bf16, f16, f32, i32, i64

# A half-precision result may be rounded twice where torch_npu composes it from two operators.
ALLOWED = {f16: 2e-3, bf16: 1.6e-2}
NPU = "npu:0"
pytestmark = [
    pytest.mark.usefixtures("npu"),
    pytest.mark.filterwarnings("ignore:Cannot create tensor with internal format"),
]


def _inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    rng = torch.Generator().manual_seed(7)
    tensors = []
    for shape in case.shapes:
        x = torch.randn(shape, generator=rng)
        if not dtype.is_floating_point:
            x = x.mul(3).abs()
        elif case.positive:
            x = x.abs() + 0.1
        tensors.append(x > 1 if dtype == torch.bool else x.to(dtype))
    return tensors


def _same(actual: Any, expected: Any, dtype: torch.dtype) -> None:
    allowed = ALLOWED.get(dtype, 1e-5)
    left, right = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(left) == len(right)
    for a, e in zip(left, right, strict=True):
        if isinstance(e, Tensor):
            assert isinstance(a, Tensor)
            torch.testing.assert_close(a.cpu(), e, rtol=allowed, atol=allowed, equal_nan=True)
        else:
            assert a == e


def _each(cases: tuple[Case, ...]) -> list[Any]:
    return [
        pytest.param(case, dtype, id=f"{case.name}-{str(dtype).removeprefix('torch.')}")
        for case in cases
        for dtype in case.dtypes
    ]


@pytest.mark.parametrize(("case", "dtype"), _each((*CASES, *ARRANGEMENTS, *MORE_CASES)))
def test_results(case: Case, dtype: torch.dtype) -> None:
    """Also what the call left in its inputs."""
    there = [x.to(NPU) for x in _inputs(case, dtype)]
    here = _inputs(case, dtype)
    actual, expected = case.call(*there), case.call(*here)
    _same(actual, expected, dtype)
    _same(there, here, dtype)


def _scalar(y: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1.5, y.numel(), device=y.device).reshape(y.shape)
    return (y.float() * weights).sum()


@pytest.mark.parametrize(("case", "dtype"), _each(GRADIENTS))
def test_gradients(case: Case, dtype: torch.dtype) -> None:
    def run(device: str) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves = [x.to(device).requires_grad_() for x in _inputs(case, dtype)]
        y = case.call(*leaves)
        return y.detach(), torch.autograd.grad(_scalar(y), leaves)

    (y, grads), (y_cpu, grads_cpu) = run(NPU), run("cpu")
    assert str(y.device) == NPU
    _same(y, y_cpu, dtype)
    for grad, expected in zip(grads, grads_cpu, strict=True):
        assert grad.dtype == expected.dtype
        # A sum over the batch in half precision is only as good as its largest terms.
        scale = max(expected.abs().max().item(), 1.0)
        _same(grad / scale, expected / scale, dtype)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": lambda x: x[:, ::2],
    "offset": lambda x: x[1:, 1:],
    "transposed": lambda x: x.transpose(0, 2),
    "reversed by steps": lambda x: x[::3, 1::2, ::2],
    "expanded": lambda x: x[:1].expand(4, 6, 5),
    "0-dim": lambda x: x[1, 2, 3],
    "empty": lambda x: x[:, :0],
    "one element": lambda x: x[:1, :1, :1],
}
CALLS: dict[str, Callable[[Tensor], Any]] = {
    "mul": lambda x: x * 2,
    "exp": torch.exp,
    "sum": torch.sum,
    "clone": torch.clone,
    "contiguous": lambda x: x.contiguous(),
    "cast": lambda x: x.to(f16),
    "cat": lambda x: torch.cat([x.reshape(-1), x.reshape(-1)]),
    "add itself": lambda x: x + x,
    "compare": lambda x: x > 0,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("call", CALLS)
def test_views(view: str, call: str) -> None:
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    _same(CALLS[call](VIEWS[view](x.to(NPU))), CALLS[call](VIEWS[view](x)), f32)


@pytest.mark.parametrize("view", [name for name in VIEWS if name != "expanded"])
def test_writing_through_a_view_leaves_the_rest(view: str) -> None:
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    there = x.to(NPU)
    VIEWS[view](there).mul_(3)
    VIEWS[view](x).mul_(3)
    _same(there, x, f32)


@pytest.mark.parametrize("dtype", [f16, bf16, f32])
@pytest.mark.parametrize("channels", [5, 64])
def test_batch_norm_saves_mean_and_variance(dtype: torch.dtype, channels: int) -> None:
    """ops-nn@9.1.0 norm/batch_norm_v3/docs/aclnnBatchNorm.md: saveInvstd of Atlas A2."""
    x = torch.randn(8, channels, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight, bias = torch.ones(channels), torch.zeros(channels)
    _, mean, third = torch.native_batch_norm(
        x.to(NPU), weight.to(NPU), bias.to(NPU), None, None, True, 0.1, 1e-3
    )
    var, expected_mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    assert mean.dtype == third.dtype == f32
    torch.testing.assert_close(mean.cpu(), expected_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(third.cpu(), var, rtol=1e-5, atol=1e-5)


def test_batch_norm_updates_running_statistics() -> None:
    x = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    norm = torch.nn.BatchNorm2d(5)
    there = torch.nn.BatchNorm2d(5).to(NPU)
    norm(x), there(x.to(NPU))
    _same(there.state_dict(), norm.state_dict(), f32)
    assert there.num_batches_tracked.item() == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.randn(1000, device=NPU),
        lambda: torch.rand(1000, device=NPU),
        lambda: torch.randint(0, 100, (1000,), device=NPU),
        lambda: torch.randperm(1000, device=NPU),
        lambda: torch.empty(1000, device=NPU).bernoulli_(0.3),
        lambda: torch.bernoulli(torch.full((1000,), 0.3, device=NPU)),
        lambda: torch.empty(1000, device=NPU).uniform_(2, 3),
        lambda: torch.empty(1000, device=NPU).normal_(1, 2),
        lambda: torch.nn.functional.dropout(torch.ones(1000, device=NPU), 0.4),
        lambda: torch.multinomial(torch.ones(20, device=NPU), 15),
        lambda: torch.empty(1000, device=NPU).random_(),
        lambda: torch.normal(0.0, 1.0, (1000,), device=NPU),
        lambda: torch.normal(torch.zeros(1000, device=NPU), 2.0),
        lambda: torch.normal(0.0, torch.ones(1000, device=NPU)),
        lambda: torch.normal(torch.zeros(1000, device=NPU), torch.ones(1000, device=NPU)),
    ],
    ids=[
        "randn",
        "rand",
        "randint",
        "randperm",
        "bernoulli_",
        "bernoulli",
        "uniform_",
        "normal_",
        "dropout",
        "multinomial",
        "random_",
        "normal",
        "normal of means",
        "normal of deviations",
        "normal of both",
    ],
)
def test_the_same_seed_gives_the_same_numbers(call: Callable[[], Tensor]) -> None:
    torch.npu.manual_seed(5)
    first, second = call().cpu(), call().cpu()
    torch.npu.manual_seed(5)
    assert torch.equal(call().cpu(), first)
    assert not torch.equal(first, second)


def test_random_numbers_are_distributed_as_asked() -> None:
    torch.npu.manual_seed(0)
    size = 100_000
    normal = torch.empty(size, device=NPU).normal_(1, 2)
    assert normal.mean().item() == pytest.approx(1, abs=0.05)
    assert normal.std().item() == pytest.approx(2, abs=0.05)
    uniform = torch.empty(size, device=NPU).uniform_(2, 3)
    assert uniform.min().item() >= 2 and uniform.max().item() <= 3
    assert uniform.mean().item() == pytest.approx(2.5, abs=0.01)
    assert torch.empty(size, device=NPU).bernoulli_(0.3).mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(torch.randperm(100, device=NPU).sort()[0].cpu(), torch.arange(100))
    kept = torch.nn.functional.dropout(torch.ones(size, device=NPU), 0.4)
    assert (kept > 0).float().mean().item() == pytest.approx(0.6, abs=0.01)
    assert kept.max().item() == pytest.approx(1 / 0.6)


@pytest.mark.parametrize("dtype", [f32, i32])
def test_operator_reads_the_previous_result(dtype: torch.dtype) -> None:
    """Through torch_npu's task queue, which launches on another thread."""
    x = torch.zeros(1000, dtype=dtype, device=NPU)
    for _ in range(200):
        x += 1
    assert torch.equal(x.cpu(), torch.full((1000,), 200, dtype=dtype))


def test_labels_of_int32_and_int64() -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0, 4, 2])
    expected = torch.nn.functional.cross_entropy(x, labels)
    there = torch.nn.functional.cross_entropy(x.to(NPU), labels.to(NPU, i64))
    _same(there, expected, f32)


_WITH_INDICES = """
import torch, torch_npu
torch.npu.use_compatible_impl({compatible})
x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
there = x.npu().requires_grad_()
y, indices = torch.nn.functional.max_pool2d(there, 3, 2, 1, return_indices=True)
y.square().sum().backward()
here = x.clone().requires_grad_()
y_cpu, indices_cpu = torch.nn.functional.max_pool2d(here, 3, 2, 1, return_indices=True)
y_cpu.square().sum().backward()
print(torch.equal(y.cpu(), y_cpu), torch.allclose(there.grad.cpu(), here.grad), indices.dtype)
print(indices.shape == indices_cpu.shape and torch.equal(indices.cpu().long(), indices_cpu))
try:
    pool = lambda x: torch.nn.functional.max_pool2d(x, 3, 2, 1)
    tangent = torch.func.jvp(pool, (x.npu(),), (x.npu().cos(),))[1]
    expected = torch.func.jvp(pool, (x,), (x.cos(),))[1]
    print(torch.equal(tangent.cpu(), expected))
except RuntimeError as error:
    print("aclnnGather" in str(error))
"""


@pytest.mark.parametrize(("compatible", "dtype"), [(True, "torch.int32"), (False, "torch.int8")])
def test_only_compatible_max_pool_returns_indices(
    on_emulator: OnEmulator, compatible: bool, dtype: str
) -> None:
    """Otherwise torch_npu gives a mask in their place, which serves the gradient and nothing else: forward
    mode gathers with it, and is refused.
    """
    ran = on_emulator(_WITH_INDICES.format(compatible=compatible), imported=True)
    assert ran.out.split() == ["True", "True", dtype, str(compatible), "True"], ran.err
