"""Batch norm on chips whose kernel saves the variance, and on those whose kernel saves its inverse root."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from ascend_emulator.pytest_plugin import OnEmulator
from shufflenet_fn.model.channel_order import in_order_of, to_canonical
from shufflenet_fn.model.network import apply
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_to
from shufflenet_fn_backends import batch_norm, reference
from shufflenet_fn_backends.primitives import ThirdResult
from shufflenet_fn_backends.reference import BACKEND
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import TINY, examples, tiny_variables

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")
EPS = 1e-2
CPU = torch.device("cpu")


@pytest.fixture
def device(npu: ModuleType) -> torch.device:
    npu.set_device(0)
    return torch.device("npu", 0)


def expected_kind(npu: ModuleType) -> ThirdResult:
    """ops-nn@9.1.0 norm/batch_norm_v3/docs/aclnnBatchNorm.md, saveInvstd."""
    return "invstd" if npu.get_device_name(0).startswith("Ascend950") else "var"


def test_probe_finds_what_the_chip_saves(npu: ModuleType, device: torch.device) -> None:
    kinds = [probe.kind for probe in batch_norm.probe(device)]
    assert kinds == [expected_kind(npu)] * len(batch_norm.CHANNELS)


def trained(device: torch.device, dtype: torch.dtype, backend: str, way: str) -> Any:
    """Running statistics after three steps, and the logits of an evaluation."""
    optimizer = sgd(constant(0.05), momentum=0.9)
    variables = tree_to(tiny_variables(dtype=dtype), device)
    images, labels = (leaf.to(device) for leaf in examples(8, dtype=dtype))
    state: TrainState = create_train_state(variables, optimizer)
    state, computing = in_order_of(TINY, state, get_backend(backend))
    state = state if way == "plain" else flatten_state(state)
    step = make_train_step(
        TINY, optimizer, backend=computing, gradients=grads_by_engine, stats_in_kernel=way == "in the kernel"
    )
    for _ in range(3):
        state, _, _ = step(state, Examples(images, labels), no_flags(device))
    state = unflatten_state(state)
    logits, _ = apply(TINY, state.variables, images, backend=computing)
    if computing is not get_backend(backend):
        state = to_canonical(TINY, state)
    stats = torch.cat([leaf.flatten() for leaf in tree_leaves(state.batch_stats)])
    return [tensor.detach().double().cpu() for tensor in (stats, logits)]


def errors(device: torch.device, backend: str, way: str) -> list[tuple[float, float]]:
    """Distance to the truth in float64 of statistics and logits: on ``device``, and on the CPU in float32."""
    truth = trained(CPU, torch.float64, "reference", "plain")
    here = trained(device, torch.float32, backend, way)
    there = trained(CPU, torch.float32, "reference", "plain")
    return [
        (float((a - t).norm() / t.norm()), float((b - t).norm() / t.norm()))
        for a, b, t in zip(here, there, truth, strict=True)
    ]


@pytest.mark.parametrize("way", ["plain", "flat", "in the kernel"])
@pytest.mark.parametrize("backend", ["reference", "gather", "npu"])
def test_statistics_and_evaluation_equal_the_cpu(device: torch.device, backend: str, way: str) -> None:
    for ours, on_cpu in errors(device, backend, way):
        assert ours <= 4 * on_cpu


@pytest.mark.parametrize("way", ["plain", "flat"])
def test_wrong_kind_would_be_noticed(
    npu: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    right = expected_kind(npu)
    wrong: ThirdResult = "invstd" if right == "var" else "var"
    monkeypatch.setattr(reference, "third_result", lambda device: wrong if device.type == "npu" else "invstd")
    for ours, on_cpu in errors(device, "reference", way):
        assert not ours <= 100 * on_cpu


def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y, _ = BACKEND.batch_norm_train(x, weight, bias, eps=EPS, relu=False)
    return (y.sin() * torch.linspace(0.5, 1.5, y.numel(), device=y.device).view(y.shape)).sum()


def operands(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    shapes = ((4, 3, 3, 2), (3,), (3,))
    drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    return tuple(tensor.to(dtype).to(device) for tensor in drawn)  # type: ignore[return-value]


def hessian_vector_product(x: Tensor, w: Tensor, b: Tensor) -> Any:
    grads = torch.func.grad(loss, (0, 1, 2))
    return torch.func.jvp(grads, (x, w, b), (x.cos(), w.cos(), b.cos()))[1]


def gradient_of_a_gradient(x: Tensor, w: Tensor, b: Tensor) -> Any:
    def size(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sum((g.square().sum() for g in torch.func.grad(loss, (0, 1, 2))(x, w, b)), x.sum())

    return torch.func.grad(size, (0, 1, 2))(x, w, b)


def gradient_of_a_gradient_by_the_engine(x: Tensor, w: Tensor, b: Tensor) -> Any:
    leaves = [leaf.clone().requires_grad_() for leaf in (x, w, b)]
    grads = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)


def gradient_of_a_functional_gradient(x: Tensor, w: Tensor, b: Tensor) -> Any:
    leaves = [leaf.clone().requires_grad_() for leaf in (x, w, b)]
    grads = torch.func.grad(loss, (0, 1, 2))(*leaves)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)


def gradients_of_an_ensemble(x: Tensor, w: Tensor, b: Tensor) -> Any:
    stacked = [torch.stack((leaf, leaf + 0.5, -leaf)) for leaf in (x, w, b)]
    return torch.vmap(torch.func.grad(loss, (0, 1, 2)))(*stacked)


def jacobian(x: Tensor, w: Tensor, b: Tensor) -> Any:
    def channels(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y, _ = BACKEND.batch_norm_train(x, w, b, eps=EPS, relu=False)
        return (y.sin() * y.square()).mean((2, 3))

    return torch.func.jacrev(channels, (0, 1, 2))(x, w, b)


def batched_backward_of_the_engine(x: Tensor, w: Tensor, b: Tensor) -> Any:
    x = x.clone().requires_grad_()
    y, _ = BACKEND.batch_norm_train(x, w, b, eps=EPS, relu=False)
    basis = torch.stack((y.detach().sin(), y.detach().cos()))
    return torch.autograd.grad(y, x, basis, is_grads_batched=True)


def tangent(x: Tensor, w: Tensor, b: Tensor) -> Any:
    return torch.func.jvp(loss, (x, w, b), (x.sin(), w.sin(), b.sin()))


@pytest.mark.parametrize(
    "transform",
    [
        hessian_vector_product,
        gradient_of_a_gradient,
        gradient_of_a_gradient_by_the_engine,
        gradient_of_a_functional_gradient,
        gradients_of_an_ensemble,
        jacobian,
        batched_backward_of_the_engine,
        tangent,
    ],
)
def test_transforms_are_right_on_either_kind(device: torch.device, transform: Callable[..., Any]) -> None:
    wanted = tree_leaves(transform(*operands(CPU, torch.float64)))
    on_cpu = tree_leaves(transform(*operands(CPU, torch.float32)))
    found = tree_leaves(transform(*operands(device, torch.float32)))
    for ours, near, exact in zip(found, on_cpu, wanted, strict=True):
        size = exact.abs().max()
        allowed = 8 * (near.double() - exact).abs().max() + 8 * 2**-23 * size
        assert (ours.double().cpu() - exact).abs().max() <= allowed


def test_all_of_it_holds_on_the_950_class(on_emulator: OnEmulator) -> None:
    """The same tests on a chip that saves the inverse standard deviation."""
    script = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ("-q", "-x", "-p", "no:cacheprovider", __file__, "-k", "not 950")
    ran = on_emulator(script, *arguments, imported=True, timeout=400, soc="Ascend950PR_9589")
    assert ran.code == 0, ran.out[-4000:] + ran.err
    assert " passed" in ran.out and "skipped" not in ran.out
