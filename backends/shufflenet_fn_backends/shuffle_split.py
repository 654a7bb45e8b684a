"""The channel shuffle, with and without the split that follows it, as dispatcher operators.

There are two pairs of operators. The operators of a pair are permutations of channels, inverse and adjoint to
each other:

* ``shufflenet_fn::shuffle_split(x1, x2) -> (y1, y2)`` and ``unshuffle_split(y1, y2) -> (x1, x2)``: the result
  is the two halves of the shuffled map;
* ``shufflenet_fn::shuffle(x1, x2) -> y`` and ``unshuffle(y) -> (x1, x2)``: the result is the map itself.

On an NPU, ``stacked_shuffle_split`` and ``stacked_unshuffle_split`` replace the first pair. They return both
halves stacked in one tensor (2, ..., C/2, H, W), so that one gather makes both.

Forward and backward gather channels with precomputed indices. Nothing is scattered or added. Each operator is
one node under ``torch.export`` and ``torch.compile``, and a device can register a kernel of its own. Call the
operators by the functions named after the pairs, which are differentiable any number of times, in both modes,
and work under every ``torch.func`` transform.

Derivatives are defined in three ways, because none works everywhere in torch (2.13, 2.14):

* reverse mode uses a ``torch.autograd.Function`` whose backward gathers again. Forward and backward cost the
  host 0.05 ms per operator, or 0.2 ms under ``torch.func`` (``gradients.grads_by_engine`` avoids that);
* forward mode uses torch's own derivative of the gathers, because a Function with a ``jvp`` rule cannot be
  compiled, and one without raises;
* the operators themselves also have torch's derivative. When Dynamo compiles ``torch.func.grad`` over a
  Function, it drops the Function's backward and differentiates the operator inside. Without a derivative of
  the operator, the result was zero, silently.

Tensors are (..., C, H, W) of any dtype, in NCHW or channels_last layout. Results keep the layout.
Source of the index arithmetic: ShuffleNetV2 of Ascend ModelZoo-PyTorch (channel_shuffle.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.library import Library, register_fake, register_vmap

from shufflenet_fn_backends.primitives import check_equal_halves, half_of_channels
from shufflenet_fn_backends.support.private import below_autograd, forward_mode

Pair = tuple[Tensor, Tensor]

# Most of torch.library has no annotations.
_LIBRARY: Any = Library("shufflenet_fn", "FRAGMENT")  # type: ignore[no-untyped-call]
_DEVICES = ("CPU", "CUDA", "PrivateUse1")


class _Operator(NamedTuple):
    """An operator: its schema, the fields of ``_Indices`` that make its results, and its inverse."""

    schema: str
    gathers: tuple[str, ...]
    inverse: str


_OPERATORS: Final[Mapping[str, _Operator]] = MappingProxyType(
    {
        "shuffle_split": _Operator(
            "(Tensor x1, Tensor x2) -> (Tensor, Tensor)", ("first", "second"), "unshuffle_split"
        ),
        "unshuffle_split": _Operator(
            "(Tensor y1, Tensor y2) -> (Tensor, Tensor)", ("even", "odd"), "shuffle_split"
        ),
        "shuffle": _Operator("(Tensor x1, Tensor x2) -> Tensor", ("shuffled",), "unshuffle"),
        "unshuffle": _Operator("(Tensor y) -> (Tensor, Tensor)", ("even", "odd"), "shuffle"),
    }
)


def shuffle_split(x1: Tensor, x2: Tensor) -> Pair:
    """Return both halves of the shuffle of ``x1`` and ``x2`` with two groups.

    Args:
        x1: first half of the channels, (..., C/2, H, W).
        x2: second half, of the same shape. Different dtypes are promoted as by ``torch.cat``.

    Returns:
        Channels 0 to C/2 and C/2 to C of the map whose channel 2i is ``x1[i]`` and 2i+1 is ``x2[i]``.

    Raises:
        ValueError: the shapes differ, or are not (..., C, H, W).
    """
    return cast(Pair, _permuted("shuffle_split", *same_kind(x1, x2)))


def unshuffle_split(y1: Tensor, y2: Tensor) -> Pair:
    """Return the even and the odd channels of ``y1`` followed by ``y2``: the inverse of ``shuffle_split``."""
    return cast(Pair, _permuted("unshuffle_split", *same_kind(y1, y2)))


def shuffle(x1: Tensor, x2: Tensor) -> Tensor:
    """Return the result of ``shuffle_split`` as one tensor (..., C, H, W)."""
    return cast(Tensor, _permuted("shuffle", *same_kind(x1, x2)))


def unshuffle(y: Tensor) -> Pair:
    """Return the even and the odd channels: the inverse of ``shuffle``.

    Raises:
        ValueError: the number of channels is odd, or ``y`` is not (..., C, H, W).
    """
    half_of_channels(y)
    return cast(Pair, _permuted("unshuffle", y))


def same_kind(x1: Tensor, x2: Tensor) -> Pair:
    """Promote both halves to one dtype. Raise ``ValueError`` if they cannot be shuffled."""
    check_equal_halves(x1, x2)
    if x1.dtype == x2.dtype:
        return x1, x2
    dtype = torch.promote_types(x1.dtype, x2.dtype)
    return x1.to(dtype), x2.to(dtype)


# ---- kernels ----


class _Indices(NamedTuple):
    shuffled: Tensor
    first: Tensor
    second: Tensor
    even: Tensor
    odd: Tensor


def _new_indices(channels: int, device: torch.device) -> _Indices:
    # The indices are computed on the device, because a step would wait for a copy from the host. The NPU
    # gathers with int32 indices on its vector cores, but with int64 indices on its slow AI CPU.
    dtype = torch.int64 if device.type in ("cpu", "cuda") else torch.int32
    natural = torch.arange(channels, dtype=dtype, device=device)
    shuffled = natural.view(2, channels // 2).t().reshape(-1)
    first, second = shuffled.view(2, channels // 2)
    even, odd = natural.view(channels // 2, 2).t().contiguous()
    return _Indices(shuffled, first, second, even, odd)


@lru_cache(maxsize=256)
def _indices(channels: int, device: torch.device) -> _Indices:
    # Only kernels call this, so the cache never holds fake or wrapped tensors.
    with torch.inference_mode(False):
        return _new_indices(channels, device)


def _gathered(
    name: str, *xs: Tensor, indices: Callable[[int, torch.device], _Indices] = _indices
) -> Tensor | tuple[Tensor, ...]:
    """Return the result of the operator ``name``: concatenate ``xs``, then gather each result."""
    if len(xs) == 2:
        xs = same_kind(*xs)
    else:
        half_of_channels(xs[0])
    # `is_contiguous(memory_format=…)` raises under vmap and works for four dimensions only.
    last = all(x.stride(-3) == 1 for x in xs)
    dim = -1 if last else -3
    laid_out = [x.movedim(-3, -1) for x in xs] if last else xs
    joined = torch.cat(laid_out, dim) if len(xs) > 1 else laid_out[0]
    table = indices(joined.shape[dim], joined.device)
    results = [joined.index_select(dim, getattr(table, index)) for index in _OPERATORS[name].gathers]
    if last:
        results = [y.movedim(-1, -3) for y in results]
    return tuple(results) if len(results) > 1 else results[0]


_differentiable = partial(_gathered, indices=_new_indices)
"""The operators by torch's own differentiable ones, for fake and wrapped tensors too."""


@lru_cache(maxsize=256)
def _rows(name: str, images: int, half: int, device: torch.device) -> Tensor:
    """Return indices into the (2 * images * half) maps of two stacked halves, each (images, half)."""
    with torch.inference_mode(False):
        # int32 as in `_new_indices`. The dimensions are half, image, channel.
        maps = torch.arange(2 * images * half, dtype=torch.int32, device=device).view(2, images, half)
        if name == "shuffle_split":
            return maps.permute(1, 2, 0).reshape(images, 2, half).transpose(0, 1).reshape(-1)
        return maps.transpose(0, 1).reshape(images, half, 2).permute(2, 0, 1).reshape(-1)


def _by_rows(x: Tensor) -> bool:
    # CPU and CUDA tensors may be channels_last, and then their maps are not rows.
    return x.device.type not in ("cpu", "cuda") and x.numel() > 0


def _stacked(name: str, x1: Tensor, x2: Tensor) -> Tensor:
    """Compute both results by one gather instead of two, which saves an NPU one kernel."""
    x1, x2 = same_kind(x1, x2)
    if not _by_rows(x1):
        return torch.stack(cast(Pair, _gathered(name, x1, x2)))
    *lead, half, height, width = x1.shape
    images = math.prod(lead)
    maps = torch.cat((x1, x2)).view(2 * images * half, height, width)
    return maps.index_select(0, _rows(name, images, half, x1.device)).view(2, *x1.shape)


def _stacked_differentiable(name: str, x1: Tensor, x2: Tensor) -> Tensor:
    return torch.stack(cast(Pair, _differentiable(name, x1, x2)))


# ---- derivatives and batching ----


def _permuted(name: str, *xs: Tensor) -> Any:
    return _differentiable(name, *xs) if forward_mode() else _FUNCTIONS[name].apply(*xs)


def _computed(name: str, *xs: Tensor) -> Any:
    """Call the operator ``name``, or on an NPU its stacked form, and return both halves."""
    if not name.endswith("split") or not _by_rows(xs[0]):
        return getattr(torch.ops.shufflenet_fn, name)(*xs)
    # An operator may not return two views of one tensor, so the halves are split off here.
    y1, y2 = getattr(torch.ops.shufflenet_fn, f"stacked_{name}")(*xs).unbind(0)
    if torch.compiler.is_compiling():  # Dynamo differentiates what it sees here
        return y1, y2
    # Return `data`: views of one tensor share the version counter of autograd.
    return y1.data, y2.data


def _autograd_function(name: str, inverse: str) -> type[Function]:
    """Return the operator ``name`` with a backward that gathers by the operator ``inverse``."""

    def of_two(x1: Tensor, x2: Tensor) -> Any:
        return _computed(name, x1, x2)

    def of_one(y: Tensor) -> Any:
        return _computed(name, y)

    class Permute(Function):
        # Not one with *xs, because Dynamo counts the parameters.
        forward = staticmethod(of_one if name == "unshuffle" else of_two)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return _permuted(inverse, *grads)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *xs: Tensor) -> Any:
            out = _permuted(name, *_batch_first(info, in_dims, xs))
            return out, 0 if isinstance(out, Tensor) else (0, 0)

    return Permute


_FUNCTIONS: Final = MappingProxyType(
    {name: _autograd_function(name, operator.inverse) for name, operator in _OPERATORS.items()}
)


def _batch_first(info: Any, in_dims: Sequence[int | None], xs: Sequence[Tensor]) -> list[Tensor]:
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(xs, in_dims, strict=True)
    ]


# ---- registration, when a backend first imports this module ----


def _register(
    name: str, schema: str, kernel: Callable[..., Any], differentiable: Callable[..., Any], batch: int = 0
) -> None:
    """Register an operator whose results have the batch dimension ``batch`` under ``vmap``."""
    _LIBRARY.define(name + schema)
    operator = getattr(torch.ops.shufflenet_fn, name).default
    for device in _DEVICES:
        _LIBRARY.impl(name, kernel, device)

    def derivative(*xs: Tensor) -> Any:
        if forward_mode() or (torch.is_grad_enabled() and any(x.requires_grad for x in xs)):
            return differentiable(*xs)
        with below_autograd():
            return operator(*xs)

    def batching_rule(info: Any, in_dims: Any, *xs: Tensor) -> Any:
        out = operator(*_batch_first(info, in_dims, xs))
        return out, batch if isinstance(out, Tensor) else (batch, batch)

    _LIBRARY.impl(name, derivative, "Autograd")
    register_fake(f"shufflenet_fn::{name}", differentiable, lib=_LIBRARY)
    register_vmap(f"shufflenet_fn::{name}", batching_rule, lib=_LIBRARY)


for _name, _operator in _OPERATORS.items():
    _register(_name, _operator.schema, partial(_gathered, _name), partial(_differentiable, _name))
for _name in ("shuffle_split", "unshuffle_split"):
    _register(
        f"stacked_{_name}",
        "(Tensor x1, Tensor x2) -> Tensor",
        partial(_stacked, _name),
        partial(_stacked_differentiable, _name),
        batch=1,
    )
