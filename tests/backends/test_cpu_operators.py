"""The C++ operators of backend ``cpu`` against torch's in float64: results, moments and every gradient."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from shufflenet_fn_backends.fused.memory import AFFINE, RELU, pixel_stride
from shufflenet_fn_backends.fused.operators import (
    Coefficients,
    Depthwise,
    Materialize,
    MaxPool,
    Operator,
    Pointwise,
    Stem,
)
from tests.model.support import generator, one_thread

__all__ = ["one_thread"]

CHANNELS_LAST = torch.channels_last
# Of the largest value. bfloat16 keeps 8 bits, so its results are within 2^-8 of exact ones.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
THREADS = pytest.mark.parametrize("threads", [1, 3])


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(getattr(request, "param", 2))


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


@DTYPES
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize(
    ("size", "channels", "out"),
    [((3, 9, 7), (10, 13, 35), 58), ((2, 28, 28), (58,), 58), ((1, 1, 1), (5,), 7),
     ((5, 7, 7), (24, 7, 85), 232), ((1, 20, 30), (16, 17), 3)],
)  # fmt: skip
def test_pointwise(
    threads: None,
    dtype: torch.dtype,
    size: tuple[int, int, int],
    channels: tuple[int, ...],
    out: int,
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
    ("shape", "out"),
    [((3, 3, 9, 7), 24), ((2, 3, 32, 30), 5), ((1, 3, 1, 1), 24), ((2, 1, 8, 8), 8)],
)
def test_stem(
    threads: None, dtype: torch.dtype, shape: tuple[int, int, int, int], out: int
) -> None:
    tensors = [
        random(out, shape[1], 3, 3, seed=1).contiguous(),
        random(*shape, seed=2, dtype=dtype),
    ]
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


def test_the_first_of_equal_values_takes_the_gradient_of_the_maximum() -> None:
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


def test_moments_do_not_cancel() -> None:
    """A mean of 1000 deviations: the sum of squares alone would lose all digits of the variance."""
    z = random(4, 16, 30, 30, seed=0) + 1000.0
    weight = torch.eye(16)[:, :, None, None].contiguous()
    no_order = torch.empty(0, dtype=torch.int64)
    _, mean, var = Pointwise((0,)).forward([weight, no_order, z])
    assert_close(mean, z.double().mean((0, 2, 3)), 1e-7, "mean")
    assert_close(var, z.double().var((0, 2, 3), correction=0), 1e-5, "var")


def test_a_constant_channel_has_no_variance() -> None:
    z = torch.full((2, 3, 20, 20), 0.1).contiguous(memory_format=CHANNELS_LAST)
    weight = torch.ones(16, 3, 1, 1)
    _, _, var = Pointwise((0,)).forward([weight, torch.empty(0, dtype=torch.int64), z])
    assert var.max() < 1e-14


def test_one_far_value_does_not_spoil_the_variance_of_the_others() -> None:
    z = 1.0 + 1e-3 * random(1, 16, 64, 64, seed=0)
    z[:, :, 0, 0] = 0.0
    expected = z.double().var((0, 2, 3), correction=0)
    identity = torch.zeros(16, 1, 3, 3)
    identity[:, :, 1, 1] = 1.0
    assert_close(
        Depthwise((0,), 1).forward([identity, z])[2] / expected, torch.ones(16), 1e-3, "dw"
    )
    weight, no_order = torch.eye(16)[:, :, None, None], torch.empty(0, dtype=torch.int64)
    found = Pointwise((0,)).forward([weight.contiguous(), no_order, z])[2]
    assert_close(found / expected, torch.ones(16), 1e-3, "pointwise")


@pytest.mark.parametrize("strided", ["channels_last", "transposed", "expanded"])
def test_weights_of_any_strides(strided: str) -> None:
    def restrided(weight: Tensor) -> Tensor:
        if strided == "channels_last":
            return weight.contiguous(memory_format=CHANNELS_LAST)
        if strided == "transposed":
            return weight.transpose(0, -1).contiguous().transpose(0, -1)
        return weight[:1].expand_as(weight)

    z, x = random(2, 20, 6, 6, seed=0), random(2, 3, 9, 9, seed=1)
    no_order = torch.empty(0, dtype=torch.int64)
    for operator, shape, rest in (
        (Pointwise((0,)), (24, 20, 1, 1), [no_order, z]),
        (Depthwise((0,), 1), (20, 1, 3, 3), [z]),
        (Stem(), (24, 3, 3, 3), [x]),
    ):
        weight = restrided(torch.randn(shape, generator=generator(2)))
        plain = weight.clone(memory_format=torch.contiguous_format)
        outcomes = []
        for w in (weight, plain):
            tensors = [w, *rest]
            results = operator.forward(tensors)
            grads = [torch.ones_like(r) for r in results]
            found = operator.backward(tensors, results, grads, [False] * len(tensors))
            outcomes.append([*results, *(g for g in found if g is not None)])
        for a, b in zip(*outcomes, strict=True):
            assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_what_does_not_fit_is_refused() -> None:
    z, no_order = random(2, 20, 6, 6, seed=0), torch.empty(0, dtype=torch.int64)
    pointwise = torch.zeros(5, 20, 1, 1)
    with pytest.raises(ValueError, match=r"\(5, 8, 1, 1\) does not fit a feature map of 20"):
        Pointwise((0,)).forward([pointwise[:, :8].contiguous(), no_order, z])
    with pytest.raises(ValueError, match="does not fit a feature map of 20"):
        Depthwise((0,), 1).forward([torch.zeros(8, 1, 3, 3), z])
    with pytest.raises(ValueError, match="does not fit images of 3 channels"):
        Stem().forward([torch.zeros(8, 4, 3, 3), random(1, 3, 8, 8, seed=0)])
    with pytest.raises(ValueError, match="do not lie side by side"):
        Pointwise((0, 0)).forward([pointwise, no_order, z[:, :10], random(2, 10, 6, 5, seed=1)])
    with pytest.raises(ValueError, match=r"float32 in its memory, not torch\.bfloat16"):
        Pointwise((0, 0)).forward([pointwise, no_order, z[:, :10], z[:, 10:].bfloat16()])
    with pytest.raises(ValueError, match=r"normalisation of 20 channels has \(3, 1\)"):
        Materialize(AFFINE).forward([z, torch.zeros(3, 1)])
    with pytest.raises(ValueError, match="on meta"):
        Pointwise((0,)).forward([pointwise, no_order, z.to("meta")])
    with FakeTensorMode() as fake, pytest.raises(ValueError, match="neither traced nor batched"):
        Materialize(RELU).forward([fake.from_tensor(z)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_defaults_of_torch_do_not_matter(dtype: torch.dtype) -> None:
    z, no_order = random(2, 20, 6, 6, seed=0), torch.empty(0, dtype=torch.int64)
    weight = random(5, 20, 1, 1, seed=1).contiguous()
    expected = Pointwise((0,)).forward([weight, no_order, z])
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = Pointwise((0,)).forward([weight, no_order, z])
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value: float) -> None:
    """A loss scale is only adjusted if an overflow reaches the gradients; a ReLU must not hide a NaN."""
    z = random(2, 20, 6, 6, seed=0)
    z[0, 3, 2, 2] = value
    spoiled = torch.stack((torch.zeros(20), torch.ones(20), torch.zeros(20)))
    spoiled[1, 3] = 0.0 if value == float("inf") else 1.0  # inf * 0
    no_order = torch.empty(0, dtype=torch.int64)
    flag = AFFINE | RELU
    weight = random(5, 20, 1, 1, seed=1).contiguous()
    assert not Pointwise((flag,)).forward([weight, no_order, z, spoiled])[0].isfinite().all()
    depthwise = random(20, 1, 3, 3, seed=1).contiguous()
    assert not Depthwise((flag,), 1).forward([depthwise, z, spoiled])[0].isfinite().all()
    assert not MaxPool(flag).forward([z, spoiled])[0].isfinite().all()
    assert not Materialize(flag).forward([z, spoiled])[0].isfinite().all()
    half = z.bfloat16()
    assert not Materialize(flag).forward([half, spoiled])[0].isfinite().all()


def test_results_depend_on_the_number_of_threads_in_the_last_bits_only_and_repeat() -> None:
    z, weight = random(4, 24, 20, 20, seed=0), random(58, 24, 1, 1, seed=1).contiguous()
    no_order = torch.empty(0, dtype=torch.int64)

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        operator = Pointwise((0,))
        results = operator.forward([weight, no_order, z])
        grads = [torch.ones_like(r) for r in results]
        found = operator.backward([weight, no_order, z], results, grads, ())
        return [*results, *(g for g in found if g is not None)]

    first, again, other = run(2), run(2), run(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for a, b in zip(first, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "stride"),
    [
        (lambda: torch.zeros(2, 8, 3, 4).contiguous(memory_format=CHANNELS_LAST), 8),
        (lambda: torch.zeros(2, 8, 3, 4).contiguous(memory_format=CHANNELS_LAST)[:, 2:5], 8),
        (lambda: torch.zeros(2, 8, 3, 4), 0),
        (lambda: torch.zeros(2, 8, 1, 1), 8),
        (lambda: torch.zeros(1, 8, 1, 1), 8),
        (lambda: torch.zeros(2, 1, 3, 4), 1),
        (lambda: torch.zeros(2, 8, 6, 4).contiguous(memory_format=CHANNELS_LAST)[:, :, ::2], 0),
        (lambda: torch.zeros(1, 1, 1, 1).expand(2, 8, 3, 4), 0),
    ],
)
def test_which_tensors_are_walked_as_they_lie(make: object, stride: int) -> None:
    assert callable(make)
    assert pixel_stride(make()) == stride
