"""Bytes that operators read and write, compared with counts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.bench.ops import bytes_moved
from shufflenet_fn.bench.ops_cases import lifted
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import one_thread

__all__ = ["one_thread"]

X = torch.randn(2, 6, 4, 4)
MAP = X.numel() * 4


def test_operator_reads_arguments_and_writes_result() -> None:
    assert bytes_moved(lambda: X + X.flip(0)) == 2 * MAP + 3 * MAP
    assert bytes_moved(lambda: X.half()) == MAP + MAP // 2


def test_views_and_allocations_move_nothing() -> None:
    assert bytes_moved(lambda: X.view(2, 96).t().expand(3, 96, 2)[0].detach().chunk(2)) == 0
    assert bytes_moved(lambda: torch.empty_like(X)) == 0


def test_expanded_tensor_counts_only_its_storage() -> None:
    assert bytes_moved(lambda: torch.ones(1).expand(1000) * 1) == 4 + 4 + 4000


def test_operators_in_place_move_as_much_as_others() -> None:
    x = X.clone()
    assert bytes_moved(lambda: x.relu_()) == 2 * MAP


def test_backward_counts() -> None:
    x = X.clone().requires_grad_()
    # Forward: x read, its square written. Backward: the gradient of 2x by pow and two multiplications.
    assert bytes_moved(lambda: torch.autograd.grad(x.square(), x, torch.ones_like(X))) > 4 * MAP


def conv(name: str, x: Tensor, weight: Tensor) -> Any:
    backend = get_backend(name)
    return backend.conv2d(lifted(backend, x), weight, stride=1, padding=0, groups=1)


@pytest.mark.parametrize("name", ["reference", "routed", "cpu"])
def test_a_convolution_is_counted_on_every_backend(name: str) -> None:
    weight = torch.randn(6, 6, 1, 1)
    conv(name, X, weight)  # makes what is made once
    moved = bytes_moved(lambda: conv(name, X, weight))
    moments = 2 * 6 * 4 if name == "cpu" else 0  # come with its convolution
    assert moved == 2 * MAP + 6 * 6 * 4 + moments


def test_the_gradients_of_kernels_are_counted() -> None:
    x = X.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(6, 6, 1, 1, requires_grad=True)
    z = get_backend("cpu").to_tensor(conv("cpu", x, weight))
    ones = torch.ones_like(z)
    moved = bytes_moved(lambda: torch.autograd.grad(z, (x, weight), ones, retain_graph=True))
    # At least: x, z and its gradient read, that of x written, and so for the weight.
    assert 4 * MAP + 2 * 6 * 6 * 4 <= moved <= 6 * MAP


def test_kernels_are_counted_only_inside() -> None:
    from shufflenet_fn_backends.fused.operators import Pointwise

    before = Pointwise.forward, Pointwise.backward
    with pytest.raises(ZeroDivisionError):
        bytes_moved(lambda: 1 // 0)
    assert (Pointwise.forward, Pointwise.backward) == before
