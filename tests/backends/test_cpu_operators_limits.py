"""The C++ operators at the limits of number formats, memory and arguments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from shufflenet_fn_backends.fused.memory import AFFINE, RELU, pixel_stride
from shufflenet_fn_backends.fused.operators import Depthwise, Materialize, MaxPool, Pointwise, Stem
from tests.backends.operator_support import CHANNELS_LAST, assert_close, random
from tests.model.support import generator, one_thread

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(getattr(request, "param", 2))


def test_moments_do_not_cancel() -> None:
    """A mean of 1000 deviations: the sum of squares alone would lose all digits of the variance."""
    z = random(4, 16, 30, 30, seed=0) + 1000.0
    weight = torch.eye(16)[:, :, None, None].contiguous()
    no_order = torch.empty(0, dtype=torch.int64)
    _, mean, var = Pointwise((0,)).forward([weight, no_order, z])
    assert_close(mean, z.double().mean((0, 2, 3)), 1e-7, "mean")
    assert_close(var, z.double().var((0, 2, 3), correction=0), 1e-5, "var")


def test_outlier_does_not_spoil_the_variance() -> None:
    z = 1.0 + 1e-3 * random(1, 16, 64, 64, seed=0)
    z[:, :, 0, 0] = 0.0
    expected = z.double().var((0, 2, 3), correction=0)
    identity = torch.zeros(16, 1, 3, 3)
    identity[:, :, 1, 1] = 1.0
    assert_close(Depthwise((0,), 1).forward([identity, z])[2] / expected, torch.ones(16), 1e-3, "dw")
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
def test_nonfinite_values_propagate(value: float) -> None:
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
    assert not Pointwise((flag,)).forward([weight, no_order, half, spoiled])[0].isfinite().all()


def test_working_memory_of_an_earlier_call_has_no_effect() -> None:
    """bfloat16 may be multiplied in pairs; what stands beside an odd channel is not part of the result."""

    def run(channels: int, out: int, value: float) -> list[Tensor]:
        z = torch.full((2, channels, 9, 9), value, dtype=torch.bfloat16)
        weight = torch.ones(out, channels, 1, 1)
        tensors = [weight, torch.empty(0, dtype=torch.int64), z.contiguous(memory_format=CHANNELS_LAST)]
        tensors.append(torch.ones(3, channels))
        operator = Pointwise((AFFINE | RELU,))
        results = operator.forward(tensors)
        found = operator.backward(tensors, results, results, ())
        return [*results, *(g for g in found if g is not None)]

    run(64, 64, float("nan"))
    assert all(result.isfinite().all() for result in run(7, 5, 3.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("wide", "channels"), [(26, 24), (30, 24), (31, 24), (25, 23)])
def test_input_without_normalisation(dtype: torch.dtype, wide: int, channels: int) -> None:
    z = random(2, wide, 7, 5, seed=0, dtype=dtype)[:, 1 : 1 + channels]
    weight = random(9, channels, 1, 1, seed=1).contiguous()
    found = Pointwise((0,)).forward([weight, torch.empty(0, dtype=torch.int64), z])[0]
    expected = torch.nn.functional.conv2d(z.double(), weight.double())
    assert_close(found, expected, 2e-5 if dtype == torch.float32 else 1e-2, "z")


def test_thread_count_changes_only_the_last_bits() -> None:
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
def test_pixel_stride_accepts_suitable_layouts(make: object, stride: int) -> None:
    assert callable(make)
    assert pixel_stride(make()) == stride
