"""References for the tests of the C++ operators: torch's own operators in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shufflenet_fn_backends.fused.library import Operator
from tests.model.support import generator

CHANNELS_LAST = torch.channels_last


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape, generator=generator(seed))
    return x.to(dtype).contiguous(memory_format=CHANNELS_LAST) if x.ndim == 4 else x


def affine(channels: int, seed: int) -> Tensor:
    """Mean, scale and beta."""
    mean, scale, beta = torch.randn(3, channels, generator=generator(seed)) * 0.3
    return torch.stack((mean, scale.abs() + 0.5, beta))


def normalised(z: Tensor, affine: Tensor | None, relu: bool) -> Tensor:
    if affine is not None:
        mean, scale, beta = affine[:, :, None, None]
        z = (z - mean) * scale + beta
    return z.relu() if relu else z


def with_moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return z, z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, what
    difference = (found.double() - expected).abs().max()
    assert difference <= tolerance * max(1.0, expected.abs().max().item()), (what, difference)


def assert_like_torch(
    operator: Operator,
    tensors: Sequence[Tensor],
    exact: Sequence[Tensor],
    expected: Sequence[Tensor],
    tolerance: float,
) -> None:
    """Results against ``expected``, computed from the float64 copies ``exact``; then all gradients."""
    results = operator.forward(tensors)
    compared = [i for i in range(len(results)) if i not in operator.constants]
    for i, want in zip(compared, expected, strict=True):
        assert_close(results[i], want, tolerance, f"result {i}")
    grads = [random(*result.shape, seed=90 + i) for i, result in enumerate(results)]
    found = operator.backward(tensors, results, grads, [True] * len(tensors))
    wanted = torch.autograd.grad(
        list(expected), list(exact), [grads[i].double() for i in compared], allow_unused=True
    )
    # The moments' gradients are exact for what was kept, so bfloat16 is compared more loosely.
    for i, (got, want) in enumerate(zip(found, wanted, strict=True)):
        if want is not None:
            assert got is not None, f"gradient {i} is missing"
            assert_close(got, want, 5 * tolerance, f"gradient {i}")


def doubles(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.double().requires_grad_() if t.is_floating_point() else t for t in tensors]
