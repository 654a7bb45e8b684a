"""The C++ operators of backend ``cpu`` compared with torch's in float64: results, moments, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn_backends.fused.memory import AFFINE, RELU
from shufflenet_fn_backends.fused.operators import (
    Coefficients,
    Depthwise,
    Materialize,
    MaxPool,
    Pointwise,
    Stem,
)
from tests.backends.operator_support import (
    CHANNELS_LAST,
    affine,
    assert_close,
    assert_like_torch,
    doubles,
    normalised,
    random,
    with_moments,
)
from tests.model.support import generator, one_thread

__all__ = ["one_thread"]

# Of the largest value. bfloat16 keeps 8 bits, so its results are within 2^-8 of exact ones.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
THREADS = pytest.mark.parametrize("threads", [1, 3])


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(getattr(request, "param", 2))


@DTYPES
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize(
    ("size", "channels", "out"),
    [((3, 9, 7), (10, 13, 35), 58), ((2, 28, 28), (58,), 58), ((1, 1, 1), (5,), 7),
     ((5, 7, 7), (24, 7, 85), 232), ((1, 20, 30), (16, 17), 3)],
)  # fmt: skip
def test_pointwise(
    threads: None, dtype: torch.dtype, size: tuple[int, int, int], channels: tuple[int, ...], out: int
) -> None:
    n, h, w = size
    flags = tuple([AFFINE | RELU, 0, AFFINE][i % 3] for i in range(len(channels)))
    tensors: list[Tensor] = []
    for i, (count, flag) in enumerate(zip(channels, flags, strict=True)):
        wide = random(n, count + 5, h, w, seed=i, dtype=dtype)
        tensors.append(wide[:, 2 : 2 + count])
        tensors += [affine(count, 10 + i)] if flag & AFFINE else []
    weight = random(out, sum(channels), 1, 1, seed=20).contiguous() * 0.2
    order = torch.randperm(sum(channels), generator=generator(0))
    every = doubles([weight, *tensors])
    rest, parts = iter(every[1:]), []
    for flag in flags:
        z = next(rest)
        parts.append(normalised(z, next(rest) if flag & AFFINE else None, bool(flag & RELU)))
    expected = with_moments(nnf.conv2d(torch.cat(parts, 1), every[0][:, order]))
    operator = Pointwise(flags)
    results = operator.forward([weight, order, *tensors])
    for i, want in enumerate(expected):
        assert_close(results[i], want, TOLERANCE[dtype], f"result {i}")
    grads = [random(*r.shape, seed=90 + i) for i, r in enumerate(results)]
    found = operator.backward([weight, order, *tensors], results, grads, ())
    wanted = torch.autograd.grad(list(expected), every, [g.double() for g in grads])
    assert found[1] is None
    for i, (got, want) in enumerate(zip((found[0], *found[2:]), wanted, strict=True)):
        assert got is not None
        assert_close(got, want, 5 * TOLERANCE[dtype], f"gradient {i}")


@DTYPES
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("flag", [0, AFFINE, AFFINE | RELU])
@pytest.mark.parametrize("shape", [(3, 40, 9, 7), (2, 24, 10, 8), (1, 5, 1, 1), (2, 17, 2, 3)])
def test_depthwise(
    threads: None, dtype: torch.dtype, stride: int, flag: int, shape: tuple[int, int, int, int]
) -> None:
    channels = shape[1]
    tensors = [random(channels, 1, 3, 3, seed=1).contiguous(), random(*shape, seed=2, dtype=dtype)]
    tensors += [affine(channels, 3)] if flag & AFFINE else []
    exact = doubles(tensors)
    y = normalised(exact[1], exact[2] if flag & AFFINE else None, bool(flag & RELU))
    z = nnf.conv2d(y, exact[0], None, stride, 1, 1, channels)
    assert_like_torch(Depthwise((flag,), stride), tensors, exact, with_moments(z), TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_over_parts(threads: None, dtype: torch.dtype, stride: int) -> None:
    counts, flags = (5, 40, 16), (AFFINE | RELU, 0, AFFINE)
    tensors = [random(sum(counts), 1, 3, 3, seed=1).contiguous()]
    for i, (count, flag) in enumerate(zip(counts, flags, strict=True)):
        tensors.append(random(3, count + 2, 7, 6, seed=10 + i, dtype=dtype)[:, 1 : 1 + count])
        tensors += [affine(count, 20 + i)] if flag & AFFINE else []
    exact = doubles(tensors)
    rest, parts = iter(exact[1:]), []
    for flag in flags:
        z = next(rest)
        parts.append(normalised(z, next(rest) if flag & AFFINE else None, bool(flag & RELU)))
    y = nnf.conv2d(torch.cat(parts, 1), exact[0], None, stride, 1, 1, sum(counts))
    assert_like_torch(Depthwise(flags, stride), tensors, exact, with_moments(y), TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize(
    ("shape", "out"), [((3, 3, 9, 7), 24), ((2, 3, 32, 30), 5), ((1, 3, 1, 1), 24), ((2, 1, 8, 8), 8)]
)
def test_stem(threads: None, dtype: torch.dtype, shape: tuple[int, int, int, int], out: int) -> None:
    tensors = [random(out, shape[1], 3, 3, seed=1).contiguous(), random(*shape, seed=2, dtype=dtype)]
    exact = doubles(tensors)
    z = nnf.conv2d(exact[1], exact[0], None, 2, 1)
    assert_like_torch(Stem(), tensors, exact, with_moments(z), TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("flag", [0, AFFINE, AFFINE | RELU])
@pytest.mark.parametrize("shape", [(3, 24, 9, 7), (2, 24, 10, 8), (1, 5, 1, 1), (2, 17, 5, 4)])
def test_pool_and_materialize(
    threads: None, dtype: torch.dtype, flag: int, shape: tuple[int, int, int, int]
) -> None:
    tensors = [random(*shape, seed=2, dtype=dtype)]
    tensors += [affine(shape[1], 3)] if flag & AFFINE else []

    def normal() -> tuple[list[Tensor], Tensor]:
        exact = doubles(tensors)
        return exact, normalised(exact[0], exact[1] if flag & AFFINE else None, bool(flag & RELU))

    exact, y = normal()
    pooled = nnf.max_pool2d(y, 3, 2, 1)
    assert_like_torch(MaxPool(flag), tensors, exact, [pooled], TOLERANCE[dtype])
    if flag:
        exact, y = normal()
        assert_like_torch(Materialize(flag), tensors, exact, [y], TOLERANCE[dtype])


def test_first_of_equal_maxima_gets_the_gradient() -> None:
    z = torch.zeros(1, 16, 4, 4).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    y = nnf.max_pool2d(z, 3, 2, 1)
    (expected,) = torch.autograd.grad(y.sum(), z)
    operator = MaxPool(0)
    results = operator.forward([z.detach()])
    (found,) = operator.backward([z.detach()], results, [torch.ones_like(y), results[1]], ())
    assert found is not None
    assert torch.equal(found, expected)


def test_coefficients() -> None:
    tensors = [random(7, seed=i) for i in range(4)]
    tensors[1] = tensors[1].abs()
    exact = doubles(tensors)
    mean, var, weight, bias = exact
    expected = torch.stack((mean, weight / (var + 1e-5).sqrt(), bias))
    assert_like_torch(Coefficients(1e-5), tensors, exact, [expected], 1e-5)
