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
* forward mode uses views and copies (``_literal_*``), because a Function with a ``jvp`` rule cannot be
  compiled, and one without raises;
* the operators themselves also have a derivative, by the same views. When Dynamo compiles ``torch.func.grad``
  over a Function, it drops the Function's backward and differentiates the operator inside. Without a
  derivative of the operator, the result was zero, silently.

Tensors are (..., C, H, W) of any dtype, in NCHW or channels_last layout. Results keep the layout.
Source of the index arithmetic: ShuffleNetV2 of Ascend ModelZoo-PyTorch (channel_shuffle.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.library import Library, register_fake, register_vmap

from shufflenet_fn_backends.primitives import check_equal_halves, half_of_channels
from shufflenet_fn_backends.support.private import below_autograd, forward_mode

Pair = tuple[Tensor, Tensor]

# Most of torch.library, and `Tensor.unflatten`, have no annotations.
_LIBRARY: Any = Library("shufflenet_fn", "FRAGMENT")  # type: ignore[no-untyped-call]
_DEVICES = ("CPU", "CUDA", "PrivateUse1")


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
    x1, x2 = same_kind(x1, x2)
    if forward_mode():
        return _literal_shuffle_split(x1, x2)
    return cast(Pair, _ShuffleSplit.apply(x1, x2))


def unshuffle_split(y1: Tensor, y2: Tensor) -> Pair:
    """Return the even and the odd channels of ``y1`` followed by ``y2``: the inverse of ``shuffle_split``."""
    y1, y2 = same_kind(y1, y2)
    if forward_mode():
        return _literal_unshuffle_split(y1, y2)
    return cast(Pair, _UnshuffleSplit.apply(y1, y2))


def shuffle(x1: Tensor, x2: Tensor) -> Tensor:
    """Return the result of ``shuffle_split`` as one tensor (..., C, H, W)."""
    x1, x2 = same_kind(x1, x2)
    if forward_mode():
        return _literal_shuffle(x1, x2)
    return cast(Tensor, _Shuffle.apply(x1, x2))


def unshuffle(y: Tensor) -> Pair:
    """Return the even and the odd channels: the inverse of ``shuffle``.

    Raises:
        ValueError: the number of channels is odd, or ``y`` is not (..., C, H, W).
    """
    half_of_channels(y)
    if forward_mode():
        return _literal_unshuffle(y)
    return cast(Pair, _Unshuffle.apply(y))


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


@lru_cache(maxsize=256)
def _indices(channels: int, device: torch.device) -> _Indices:
    # Only kernels call this, so the cache never holds fake or wrapped tensors. The indices are computed on
    # the device, because a step would wait for a copy from the host. The NPU gathers with int32 indices on
    # its vector cores, but with int64 indices on its slow AI CPU.
    dtype = torch.int64 if device.type in ("cpu", "cuda") else torch.int32
    with torch.inference_mode(False):
        natural = torch.arange(channels, dtype=dtype, device=device)
        shuffled = natural.view(2, channels // 2).t().reshape(-1)
        first, second = shuffled.view(2, channels // 2)
        even, odd = natural.view(channels // 2, 2).t().contiguous()
    return _Indices(shuffled, first, second, even, odd)


def _gather(xs: Sequence[Tensor], *which: str) -> list[Tensor]:
    """Concatenate ``xs`` and gather one result with each of the named indices."""
    dim = _channel_dim(xs)
    moved = [_laid_out(x, dim) for x in xs]
    joined = torch.cat(moved, dim) if len(moved) > 1 else moved[0]
    indices = _indices(joined.shape[dim], joined.device)
    return [_nchw(joined.index_select(dim, getattr(indices, name)), dim) for name in which]


class _Rows(NamedTuple):
    shuffled: Tensor
    unshuffled: Tensor


@lru_cache(maxsize=256)
def _rows(images: int, half: int, device: torch.device) -> _Rows:
    """Return indices into the (2 * images * half) maps of two stacked halves, each (images, half)."""
    dtype = torch.int32  # as in `_indices`
    with torch.inference_mode(False):
        image = torch.arange(images, dtype=dtype, device=device).view(1, -1, 1) * half
        channel = torch.arange(half, dtype=dtype, device=device)
        operand = torch.arange(2, dtype=dtype, device=device) * (images * half)
        # Channel k of the shuffled map is channel k // 2 of operand k % 2, and conversely.
        shuffled = (channel.view(half, 1) + operand).reshape(2, 1, half) + image
        joined = (operand.view(2, 1) + channel).reshape(half, 2)
        unshuffled = joined.t().reshape(2, 1, half) + image
    return _Rows(shuffled.reshape(-1), unshuffled.reshape(-1))


def _gather_rows(x1: Tensor, x2: Tensor, which: str) -> Tensor:
    """Compute both results by one gather instead of two, which saves an NPU one kernel."""
    *lead, half, height, width = x1.shape
    images = math.prod(lead)
    maps = torch.cat((x1, x2)).view(2 * images * half, height, width)
    index: Tensor = getattr(_rows(images, half, x1.device), which)
    return maps.index_select(0, index).view(2, *x1.shape)


def _channel_dim(xs: Sequence[Tensor]) -> int:
    """Return the dimension to gather channels in: -1 if all tensors are channels_last, else -3."""
    # `is_contiguous(memory_format=…)` raises under vmap and works for four dimensions only.
    return -1 if all(x.stride(-3) == 1 for x in xs) else -3


def _laid_out(x: Tensor, dim: int) -> Tensor:
    # Make no view if there is nothing to move: torch 2.14 cannot compile `jvp` over a view of a view.
    return x if dim == -3 else x.movedim(-3, dim)


def _nchw(x: Tensor, dim: int) -> Tensor:
    return x if dim == -3 else x.movedim(dim, -3)


def _kernel_shuffle_split(x1: Tensor, x2: Tensor) -> Pair:
    y1, y2 = _gather(same_kind(x1, x2), "first", "second")
    return y1, y2


def _kernel_unshuffle_split(y1: Tensor, y2: Tensor) -> Pair:
    x1, x2 = _gather(same_kind(y1, y2), "even", "odd")
    return x1, x2


def _kernel_stacked_shuffle_split(x1: Tensor, x2: Tensor) -> Tensor:
    x1, x2 = same_kind(x1, x2)
    return _gather_rows(x1, x2, "shuffled") if _by_rows(x1) else torch.stack(_kernel_shuffle_split(x1, x2))


def _kernel_stacked_unshuffle_split(y1: Tensor, y2: Tensor) -> Tensor:
    y1, y2 = same_kind(y1, y2)
    return (
        _gather_rows(y1, y2, "unshuffled") if _by_rows(y1) else torch.stack(_kernel_unshuffle_split(y1, y2))
    )


def _by_rows(x: Tensor) -> bool:
    # CPU and CUDA tensors may be channels_last, and then their maps are not rows.
    return x.device.type not in ("cpu", "cuda") and x.numel() > 0


def _kernel_shuffle(x1: Tensor, x2: Tensor) -> Tensor:
    (y,) = _gather(same_kind(x1, x2), "shuffled")
    return y


def _kernel_unshuffle(y: Tensor) -> Pair:
    half_of_channels(y)
    x1, x2 = _gather((y,), "even", "odd")
    return x1, x2


# ---- the same by views and copies: differentiable by torch, with equal shapes and strides ----


def _literal_shuffle(x1: Tensor, x2: Tensor) -> Tensor:
    x1, x2 = same_kind(x1, x2)
    dim = _channel_dim((x1, x2))
    pairs = torch.stack((_laid_out(x1, dim), _laid_out(x2, dim)), dim)
    return _nchw(pairs.flatten(dim - 1, dim), dim)


def _literal_unshuffle(y: Tensor) -> Pair:
    half_of_channels(y)
    dim = _channel_dim((y,))
    pairs = _laid_out(y, dim).unflatten(dim, (-1, 2))  # type: ignore[no-untyped-call]
    x1, x2 = (_nchw(_fresh(pairs.select(dim, i)), dim) for i in range(2))
    return x1, x2


def _literal_shuffle_split(x1: Tensor, x2: Tensor) -> Pair:
    dim = _channel_dim((x1, x2))
    halves = _laid_out(_literal_shuffle(x1, x2), dim).unflatten(dim, (2, -1))  # type: ignore[no-untyped-call]
    y1, y2 = (_nchw(_fresh(halves.select(dim - 1, i)), dim) for i in range(2))
    return y1, y2


def _literal_unshuffle_split(y1: Tensor, y2: Tensor) -> Pair:
    y1, y2 = same_kind(y1, y2)
    dim = _channel_dim((y1, y2))
    joined = torch.cat((_laid_out(y1, dim), _laid_out(y2, dim)), dim)
    return _literal_unshuffle(_nchw(joined, dim))


def _literal_stacked_shuffle_split(x1: Tensor, x2: Tensor) -> Tensor:
    return torch.stack(_literal_shuffle_split(*same_kind(x1, x2)))


def _literal_stacked_unshuffle_split(y1: Tensor, y2: Tensor) -> Tensor:
    return torch.stack(_literal_unshuffle_split(y1, y2))


def _fresh(x: Tensor) -> Tensor:
    # An operator must not return a view of its input or of another result.
    return x.clone(memory_format=torch.contiguous_format)


# ---- autograd functions ----


def _saves_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def _halves(name: str, x1: Tensor, x2: Tensor) -> Pair:
    """Call the operator ``name``, or on an NPU its stacked form, and return both halves."""
    if not _by_rows(x1):
        return cast(Pair, getattr(torch.ops.shufflenet_fn, name)(x1, x2))
    # An operator may not return two views of one tensor, so the halves are split off here.
    y1, y2 = getattr(torch.ops.shufflenet_fn, f"stacked_{name}")(x1, x2).unbind(0)
    if torch.compiler.is_compiling():  # Dynamo differentiates what it sees here
        return y1, y2
    # Return `data`: views of one tensor share the version counter of autograd.
    return y1.data, y2.data


def _batch_first(info: Any, in_dims: Sequence[int | None], xs: Sequence[Tensor]) -> list[Tensor]:
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(xs, in_dims, strict=True)
    ]


class _ShuffleSplit(Function):
    setup_context = staticmethod(_saves_nothing)

    @staticmethod
    def forward(x1: Tensor, x2: Tensor) -> Any:
        return _halves("shuffle_split", x1, x2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return unshuffle_split(*grads)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *xs: Tensor) -> Any:
        return shuffle_split(*_batch_first(info, in_dims, xs)), (0, 0)


class _UnshuffleSplit(Function):
    setup_context = staticmethod(_saves_nothing)

    @staticmethod
    def forward(y1: Tensor, y2: Tensor) -> Any:
        return _halves("unshuffle_split", y1, y2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return shuffle_split(*grads)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *ys: Tensor) -> Any:
        return unshuffle_split(*_batch_first(info, in_dims, ys)), (0, 0)


class _Shuffle(Function):
    setup_context = staticmethod(_saves_nothing)

    @staticmethod
    def forward(x1: Tensor, x2: Tensor) -> Any:
        return torch.ops.shufflenet_fn.shuffle(x1, x2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return unshuffle(*grads)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *xs: Tensor) -> Any:
        return shuffle(*_batch_first(info, in_dims, xs)), 0


class _Unshuffle(Function):
    setup_context = staticmethod(_saves_nothing)

    @staticmethod
    def forward(y: Tensor) -> Any:
        return torch.ops.shufflenet_fn.unshuffle(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return shuffle(*grads)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *ys: Tensor) -> Any:
        return unshuffle(*_batch_first(info, in_dims, ys)), (0, 0)


# ---- registration, when a backend first imports this module ----


def _register(signature: str, kernel: Callable[..., Any], literal: Callable[..., Any]) -> None:
    name = signature.partition("(")[0]
    _LIBRARY.define(signature)
    operator = getattr(torch.ops.shufflenet_fn, name).default
    for device in _DEVICES:
        _LIBRARY.impl(name, kernel, device)

    def derivative(*xs: Tensor) -> Any:
        if forward_mode() or (torch.is_grad_enabled() and any(x.requires_grad for x in xs)):
            return literal(*xs)
        with below_autograd():
            return operator(*xs)

    def batching_rule(info: Any, in_dims: Any, *xs: Tensor) -> Any:
        out = operator(*_batch_first(info, in_dims, xs))
        batch = 1 if name.startswith("stacked") else 0
        return out, batch if isinstance(out, Tensor) else (batch, batch)

    _LIBRARY.impl(name, derivative, "Autograd")
    register_fake(f"shufflenet_fn::{name}", literal, lib=_LIBRARY)
    register_vmap(f"shufflenet_fn::{name}", batching_rule, lib=_LIBRARY)


_register(
    "shuffle_split(Tensor x1, Tensor x2) -> (Tensor, Tensor)", _kernel_shuffle_split, _literal_shuffle_split
)
_register(
    "unshuffle_split(Tensor y1, Tensor y2) -> (Tensor, Tensor)",
    _kernel_unshuffle_split,
    _literal_unshuffle_split,
)
_register(
    "stacked_shuffle_split(Tensor x1, Tensor x2) -> Tensor",
    _kernel_stacked_shuffle_split,
    _literal_stacked_shuffle_split,
)
_register(
    "stacked_unshuffle_split(Tensor y1, Tensor y2) -> Tensor",
    _kernel_stacked_unshuffle_split,
    _literal_stacked_unshuffle_split,
)
_register("shuffle(Tensor x1, Tensor x2) -> Tensor", _kernel_shuffle, _literal_shuffle)
_register("unshuffle(Tensor y) -> (Tensor, Tensor)", _kernel_unshuffle, _literal_unshuffle)
