"""The operators ``shufflenet_fn::shuffle_split``, ``shuffle`` and their inverses."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from shufflenet_fn_backends import reference, shuffle_split
from tests.model.support import generator

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")


class Operator(NamedTuple):
    """One of the four, with what it computes written as indexing."""

    name: str
    inputs: int
    literal: Callable[..., Any]

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(shuffle_split, self.name)

    @property
    def raw(self) -> Any:
        return getattr(torch.ops.shufflenet_fn, self.name).default


def interleaved(x1: Tensor, x2: Tensor) -> Tensor:
    c = x1.shape[-3]
    rows = [x.select(-3, i) for i in range(c) for x in (x1, x2)]
    return torch.stack(rows, -3)


def cut(x: Tensor) -> tuple[Tensor, Tensor]:
    c = x.shape[-3] // 2
    return x[..., :c, :, :], x[..., c:, :, :]


def drawn_apart(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2, :, :], x[..., 1::2, :, :]


OPERATORS = (
    Operator("shuffle_split", 2, lambda a, b: cut(interleaved(a, b))),
    Operator("unshuffle_split", 2, lambda a, b: drawn_apart(torch.cat((a, b), -3))),
    Operator("shuffle", 2, interleaved),
    Operator("unshuffle", 1, drawn_apart),
)
operators = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)


def arguments(
    op: Operator,
    shape: tuple[int, ...] = (2, 6, 5, 3),
    *,
    dtype: torch.dtype = torch.float64,
    channels_last: bool = False,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    rng = generator(seed)

    def argument() -> Tensor:
        x = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
        return x.movedim(-3, -1).contiguous().movedim(-1, -3) if channels_last else x

    return tuple(argument() for _ in range(op.inputs))


def equal(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


DTYPES = (*(torch.float64, torch.float32, torch.bfloat16, torch.float16), *(torch.int64, torch.bool))


@operators
@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (1, 2, 1, 1), (0, 4, 2, 2), (6, 3, 2), (2, 3, 4, 2, 5)])
def test_values_and_layout(op: Operator, shape: tuple[int, ...]) -> None:
    for dtype, channels_last in itertools.product(DTYPES, (False, True)):
        args = arguments(op, shape, dtype=dtype, channels_last=channels_last)
        for call in (op.function, op.raw):
            actual = call(*args)
            equal(actual, op.literal(*args))
            for y in [actual] if isinstance(actual, Tensor) else actual:
                lying = y.movedim(-3, -1) if channels_last else y
                assert lying.is_contiguous(), (dtype, channels_last)


@operators
def test_arguments_that_lie_otherwise(op: Operator) -> None:
    """Slices, halves of a map, expanded tensors, one of each layout: values right, results packed."""
    whole = torch.randn(2, 12, 5, 6, generator=generator(1))
    for args in (
        (whole[:, :6], whole[:, 6:]),
        (whole[:, 0::2], whole[:, 1::2]),
        (whole[:, :6].transpose(2, 3), whole[:, 6:].transpose(2, 3)),
        (whole[:1, :6].expand(4, -1, -1, -1), whole[:1, 6:].expand(4, -1, -1, -1)),
        (whole[:, :6].contiguous(memory_format=torch.channels_last), whole[:, 6:]),
    ):
        args = args[: op.inputs]
        actual = op.function(*args)
        equal(actual, op.literal(*args))
        packed = torch.channels_last if args[-1].stride(1) == 1 else torch.contiguous_format
        for y in [actual] if isinstance(actual, Tensor) else actual:
            assert y.is_contiguous(memory_format=packed)


# opcheck's own doing, on the copies that it makes of its arguments.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@operators
def test_opcheck(op: Operator) -> None:
    for requires_grad, channels_last in itertools.product((False, True), repeat=2):
        args = arguments(op, channels_last=channels_last)
        args = tuple(x.requires_grad_(requires_grad) for x in args)
        result = torch.library.opcheck(op.raw, args)
        assert set(result.values()) == {"SUCCESS"}, result
    if op.name.endswith("split"):
        stacked, args = getattr(torch.ops.shufflenet_fn, f"stacked_{op.name}").default, arguments(op)
        equal(stacked(*args), torch.stack(op.literal(*args)))
        assert set(torch.library.opcheck(stacked, args).values()) == {"SUCCESS"}
        batched = torch.vmap(stacked)(*(torch.stack((x, -x)) for x in args))
        equal(batched[1], -stacked(*args))


@operators
def test_every_device_has_a_kernel_of_its_own(op: Operator) -> None:
    name = f"shufflenet_fn::{op.name}"
    for key in ("CPU", "CUDA", "PrivateUse1", "Meta", "FuncTorchBatched"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), key
    # Not one kernel for everything that calls torch again: it would not be one node.
    assert not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


class Seen(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@operators
def test_backward_is_a_gather_too(op: Operator) -> None:
    inverse = op.name.removeprefix("un") if op.name.startswith("un") else f"un{op.name}"
    args = tuple(x.requires_grad_() for x in arguments(op))
    out = op.function(*args)
    outs = (out,) if isinstance(out, Tensor) else out
    with Seen() as seen:
        torch.autograd.grad(outs, args, [torch.ones_like(y) for y in outs])
    assert f"shufflenet_fn::{inverse}" in seen.names
    assert not any("scatter" in name or "index" in name or "copy" in name for name in seen.names)


@pytest.mark.parametrize("way", ["function", "raw"])
@operators
def test_gradients_to_any_order(op: Operator, way: str) -> None:
    call = getattr(op, way)
    args = tuple(x.requires_grad_() for x in arguments(op, (1, 4, 2, 1)))

    def curved(*xs: Tensor) -> Any:
        return call(*(x.pow(3) for x in xs))

    assert torch.autograd.gradcheck(
        curved, args, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(curved, args, check_fwd_over_rev=True)


def scalar(call: Callable[..., Any]) -> Callable[..., Tensor]:
    def function(*xs: Tensor) -> Tensor:
        out = call(*xs)
        outs = (out,) if isinstance(out, Tensor) else out
        return torch.stack([(i + 1) * (y.sin() * y.square()).sum() for i, y in enumerate(outs)]).sum()

    return function


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Any]] = {
    "grad": lambda f, xs: grad(f)(*xs),
    "vjp": lambda f, xs: vjp(f, *xs)[1](torch.ones((), dtype=xs[0].dtype)),
    "jvp": lambda f, xs: jvp(f, xs, xs),
    "vmap": lambda f, xs: vmap(f)(*xs),
    "vmap over dim 2": lambda f, xs: vmap(f, in_dims=-1)(*(x[..., None].repeat(1, 1, 1, 1, 2) for x in xs)),
    "vmap of the first": lambda f, xs: vmap(lambda x: f(x, *xs[1:]))(torch.stack([xs[0], 2 * xs[0]])),
    "vmap(vmap)": lambda f, xs: vmap(vmap(f))(*(torch.stack([x, 2 * x]) for x in xs)),
    "vmap(grad)": lambda f, xs: vmap(grad(f))(*xs),
    "grad(vmap)": lambda f, xs: grad(lambda *xs: vmap(f)(*xs).prod())(*xs),
    "grad(grad)": lambda f, xs: grad(lambda x: grad(f)(x, *xs[1:]).pow(3).sum())(xs[0]),
    "jvp(grad)": lambda f, xs: jvp(grad(f), xs, xs),
    "grad(jvp)": lambda f, xs: grad(lambda *xs: jvp(f, xs, xs)[1])(*xs),
    "vmap(jvp)": lambda f, xs: vmap(lambda *xs: jvp(f, xs, xs))(*xs),
    "jvp(vmap)": lambda f, xs: jvp(vmap(f), xs, xs),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@operators
def test_transforms(op: Operator, transform: str) -> None:
    run = TRANSFORMS[transform]
    for channels_last in (False, True):
        args = arguments(op, (2, 4, 3, 2), channels_last=channels_last)
        if "vmap" in transform and transform != "vmap over dim 2":
            args = tuple(torch.stack([x, x.flip(0)]) for x in args)
        expected = run(scalar(op.literal), args)
        for call in (op.function, op.raw):
            actual = run(scalar(call), args)
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("way", "transform"),
    [
        ("function", "grad"),
        ("raw", "grad"),
        *(
            pytest.param("function", name, marks=pytest.mark.campaign)
            for name in ("jvp", "vmap(grad)", "grad(grad)", "jvp(grad)")
        ),
        # Without jvp: torch 2.14 fails inside over any operator with a Python derivative.
        *(pytest.param("raw", name, marks=pytest.mark.campaign) for name in ("vmap(grad)", "grad(grad)")),
    ],
)
# Dynamo's own doing, in torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_transforms(way: str, transform: str) -> None:
    """Around ``grad``, Dynamo keeps a Function's forward and forgets its backward: a silent zero, once."""
    op = OPERATORS[0]
    args = arguments(op, (2, 4, 3, 2))
    args = tuple(torch.stack([x, x.flip(0)]) for x in args) if "vmap" in transform else args
    run = TRANSFORMS[transform]
    torch.compiler.reset()
    function = torch.compile(
        lambda *xs: run(scalar(getattr(op, way)), xs), fullgraph=True, backend="aot_eager"
    )
    expected = run(scalar(op.literal), args)
    torch.testing.assert_close(function(*args), expected, rtol=1e-12, atol=1e-12)


def test_indices_are_made_once_and_on_the_device() -> None:
    shuffle_split._indices.cache_clear()
    args = arguments(OPERATORS[0], (1, 10, 2, 2))
    with Seen() as first:
        shuffle_split.shuffle_split(*args)
        shuffle_split.unshuffle_split(*args)
    with Seen() as second:
        shuffle_split.shuffle_split(*args)
        shuffle_split.unshuffle_split(*args)
    assert second.names == ["shufflenet_fn::shuffle_split", "shufflenet_fn::unshuffle_split"]
    assert not any("_to_copy" in name or "lift_fresh" in name for name in first.names)
    assert shuffle_split._indices.cache_info().misses == 1
    indices = shuffle_split._indices(20, torch.device("cpu"))
    assert all(index.dtype == torch.int64 and index.is_contiguous() for index in indices)
    # What an NPU would be given. (Of this torch build there is no other device to ask.)
    other = shuffle_split._indices(20, torch.device("meta"))
    assert all(index.dtype == torch.int32 and index.device.type == "meta" for index in other)


def test_cached_indices_from_inference_work_in_training() -> None:
    op = OPERATORS[0]
    for first in (torch.inference_mode, FakeTensorMode):
        shuffle_split._indices.cache_clear()
        with first():
            shuffle_split.shuffle_split(*(torch.randn(1, 7, 2, 2) for _ in range(2)))
        args = tuple(x.requires_grad_() for x in arguments(op, (1, 7, 2, 2)))
        out = shuffle_split.shuffle_split(*args)
        equal(out, op.literal(*args))
        out[0].sum().backward()
        assert args[0].grad is not None and args[0].grad.sum() == 4 * 4
        kept = shuffle_split._indices(14, torch.device("cpu"))
        assert all(type(index) is Tensor and not index.is_inference() for index in kept)


@pytest.mark.parametrize("way", ["function", "raw"])
@operators
def test_bad_shapes_raise(op: Operator, way: str) -> None:
    def bad(*shapes: tuple[int, ...]) -> None:
        with pytest.raises(ValueError) as error:
            getattr(op, way)(*(torch.zeros(shape) for shape in shapes))
        assert str(shapes[0]) in str(error.value)

    if op.inputs == 2:
        bad((2, 4, 3, 3), (2, 6, 3, 3))
        bad((2, 4, 3, 3), (1, 4, 3, 3))
        bad((4, 3), (4, 3))
    else:
        bad((2, 5, 3, 3))
        bad((4, 3))


def test_two_dtypes_give_the_wider_as_in_cat() -> None:
    x1, x2 = torch.randn(2, 1, 4, 2, 2, generator=generator(2))
    y1, y2 = shuffle_split.shuffle_split(x1.half(), x2)
    expected = reference.channel_split(reference.channel_shuffle(x1.half(), x2))
    equal((y1, y2), expected)


def test_nothing_is_registered_until_a_backend_asks() -> None:
    program = """
import sys, torch, shufflenet_fn, shufflenet_fn_backends.registry as registry
shufflenet_fn.apply
registry.get_backend("reference"), registry.get_backend("native")
assert not hasattr(torch.ops.shufflenet_fn, "shuffle_split")
registry.get_backend("npu")
assert not hasattr(torch.ops.shufflenet_fn, "shuffle_split")
registry.get_backend("gather")
torch.ops.shufflenet_fn.shuffle_split
assert "torch_npu" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=300)
