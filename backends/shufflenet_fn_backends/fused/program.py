"""A forward pass with folded batch norms that is recorded once and then runs in one call of the library.

The call computes all layers for one image, then for the next. So the output of a layer is still in the CPU
cache when the next layer reads it, and its memory is reused. Parts are read in place, so split and shuffle
are free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from shufflenet_fn_backends import routing
from shufflenet_fn_backends.fused.library import kernels
from shufflenet_fn_backends.fused.memory import Fields, address, fields, vector
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.routed_map import reordered

_STEM, _POOL, _POINTWISE, _DEPTHWISE, _MEAN = range(5)
_NO_BUFFER = -1


class _Range(NamedTuple):
    """Channels ``start`` to ``start + channels`` of a buffer with ``width`` channels."""

    buffer: int
    start: int
    channels: int
    width: int


@dataclass(frozen=True)
class _Map:
    """A feature map of one image in the recording."""

    parts: tuple[_Range, ...]
    layout: routing.Layout
    height: int
    width: int


class _Step(NamedTuple):
    kind: int
    relu: bool
    weight: Tensor | None
    bias: Tensor | None
    x: _Map
    out: int
    stride: int
    result: int
    mask: int


class _Recorder:
    """A backend whose primitives record their calls."""

    def __init__(self, permuted: bool) -> None:
        self.steps: list[_Step] = []
        self.buffers: list[int] = []  # elements
        self._permuted = permuted

    def backend(self) -> Backend[_Map]:
        return Backend(
            name="recorder",
            conv2d=_not_folded,
            conv2d_bias=self.conv2d_bias,
            batch_norm_train=_not_folded,
            batch_norm_eval=_not_folded,
            max_pool2d=self.max_pool2d,
            channel_split=_split,
            channel_shuffle=_shuffle,
            to_tensor=_not_folded,
        )

    def conv2d_bias(
        self,
        x: _Map | Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int,
        relu: bool,
    ) -> _Map:
        assert isinstance(x, _Map)
        kernel, channels = tuple(weight.shape[2:]), len(x.layout.order)
        weight, bias = weight.detach().float().contiguous(), bias.detach().float().contiguous()
        if (kernel, stride, padding, groups) == ((3, 3), 2, 1, 1) and x.parts[0].buffer < 0:
            return self._convolved(_STEM, x, weight, bias, 2, relu)
        order = x.layout.order
        if (kernel, stride, padding, groups) == ((1, 1), 1, 0, 1):
            packed = _packed(weight if self._permuted else reordered(weight, order, 1))
            return self._convolved(_POINTWISE, x, packed, bias, 1, relu, out=weight.shape[0])
        if (kernel, padding, groups) == ((3, 3), 1, channels) and stride in (1, 2):
            if not self._permuted:
                weight, bias = reordered(weight, order).contiguous(), reordered(bias, order)
            y = self._convolved(_DEPTHWISE, x, weight, bias, stride, relu)
            return _Map(y.parts, routing.Layout((channels,), order), y.height, y.width)
        raise NotImplementedError(f"no kernel for a {kernel} convolution with {groups} groups")

    def max_pool2d(self, x: _Map | Tensor, *, kernel: int, stride: int, padding: int) -> _Map:
        assert isinstance(x, _Map)
        if (kernel, stride, padding, len(x.parts)) != (3, 2, 1, 1):
            raise NotImplementedError(f"no kernel for a {kernel}x{kernel} maximum of such a map")
        y = self._convolved(_POOL, x, None, None, 2, False, out=x.parts[0].channels)
        return _Map(y.parts, x.layout, y.height, y.width)

    def _convolved(
        self,
        kind: int,
        x: _Map,
        weight: Tensor | None,
        bias: Tensor | None,
        stride: int,
        relu: bool,
        out: int | None = None,
    ) -> _Map:
        if out is None:
            assert weight is not None
            out = weight.shape[0]
        height, width = (x.height - 1) // stride + 1, (x.width - 1) // stride + 1
        result = self._buffer(height * width * out)
        mask = self._buffer(height * width * out) if kind == _POOL else _NO_BUFFER
        self.steps.append(_Step(kind, relu, weight, bias, x, out, stride, result, mask))
        return _Map((_Range(result, 0, out, out),), routing.natural(out), height, width)

    def mean(self, x: _Map) -> None:
        assert len(x.parts) == 1, "the last layer is a convolution"
        self.steps.append(_Step(_MEAN, False, None, None, x, x.parts[0].channels, 1, _NO_BUFFER, _NO_BUFFER))

    def _buffer(self, elements: int) -> int:
        self.buffers.append(-(-elements // 64) * 64)
        return len(self.buffers) - 1


def record(
    body: Callable[[Backend[Any], Any], Any], images: Tensor, *, permuted: bool
) -> Callable[[Tensor], Tensor]:
    """Record ``body``: see ``primitives.Program``. ``permuted``: whether its parameters are in that order."""
    address(images)
    _, channels, height, width = images.shape
    recorder = _Recorder(permuted)
    source = _Range(_NO_BUFFER, 0, channels, channels)
    last = body(recorder.backend(), _Map((source,), routing.natural(channels), height, width))
    recorder.mean(last)
    return _Recorded(recorder, last, images.dtype)


class _Recorded:
    """The recorded steps, with one arena of buffers per thread. Several threads may call it at once."""

    def __init__(self, recorder: _Recorder, last: _Map, dtype: torch.dtype) -> None:
        offsets, self._arena_size = _arena(recorder)
        values: list[int] = []
        for step in recorder.steps:
            x = step.x
            ranges = [r for r in x.parts if r.buffer != _NO_BUFFER]
            values += [
                step.kind,
                step.relu,
                _address(step.weight),
                _address(step.bias),
                len(x.layout.order),
                step.out,
                x.height,
                x.width,
                step.stride,
                *(0 if b == _NO_BUFFER else offsets[b] for b in (step.result, step.mask)),
                len(ranges),
            ]
            for r in ranges:
                values += [offsets[r.buffer] + r.start, r.width, r.channels]
        self._fields: Fields = fields(*values)
        self._count = len(recorder.steps)
        self._parameters = [(step.weight, step.bias) for step in recorder.steps]  # kept alive
        self._features = len(last.layout.order)
        self._order = routing.inverse(last.layout.order)
        self._dtype = dtype
        self._own = threading.local()

    def __call__(self, images: Tensor) -> Tensor:
        x = images.to(self._dtype).contiguous(memory_format=torch.channels_last)
        threads = torch.get_num_threads()
        features = torch.empty(x.shape[0], self._features, dtype=self._dtype, device="cpu")
        arenas = getattr(self._own, "arenas", None)
        if arenas is None or arenas.numel() < threads * self._arena_size:
            arenas = torch.empty(threads * self._arena_size, dtype=self._dtype, device="cpu")
            self._own.arenas = arenas
        kernels().program(
            int(self._dtype is torch.bfloat16),
            self._fields,
            self._count,
            address(x, self._dtype),
            x.shape[0],
            x.shape[1:].numel(),
            address(features),
            self._features,
            address(arenas),
            self._arena_size,
            threads,
        )
        return reordered(features, self._order, 1)


def _arena(recorder: _Recorder) -> tuple[list[int], int]:
    """Return the buffers' offsets and the arena's size. Buffers with disjoint lifetimes share memory."""
    last_use = [0] * len(recorder.buffers)
    for number, step in enumerate(recorder.steps):
        for buffer in (step.result, step.mask, *(r.buffer for r in step.x.parts)):
            if buffer != _NO_BUFFER:
                last_use[buffer] = number
    offsets = [0] * len(recorder.buffers)
    taken: list[tuple[int, int, int]] = []  # offset, end, buffer
    size = 0
    for number, step in enumerate(recorder.steps):
        if step.kind == _MEAN:
            continue
        taken = [block for block in taken if last_use[block[2]] >= number]
        for buffer in (step.result, step.mask):
            if buffer == _NO_BUFFER:
                continue
            start, needed = 0, recorder.buffers[buffer]
            for offset, end, _ in sorted(taken):
                if offset - start >= needed:
                    break
                start = max(start, end)
            offsets[buffer] = start
            taken.append((start, start + needed, buffer))
            size = max(size, start + needed)
    return offsets, size


def _split(x: _Map) -> tuple[_Map, _Map]:
    halves = []
    for half in routing.split(x.layout):
        parts = []
        for r in half.ranges:
            part = x.parts[r.part]
            parts.append(part._replace(start=part.start + r.start, channels=r.stop - r.start))
        halves.append(_Map(tuple(parts), half.layout, x.height, x.width))
    return halves[0], halves[1]


def _shuffle(x1: _Map, x2: _Map) -> _Map:
    layout = routing.interleave(x1.layout, x2.layout)
    return _Map(x1.parts + x2.parts, layout, x1.height, x1.width)


def _not_folded(*arguments: object, **options: object) -> NoReturn:
    raise NotImplementedError("only folded forward passes can be recorded")


def _packed(weight: Tensor) -> Tensor:
    """Pack a weight (O, I, 1, 1) in the layout of the kernels."""
    out, channels = weight.shape[:2]
    weight = weight.contiguous()
    lanes = 16  # of the widest vectors that the kernels support
    packed = vector(-(-out // lanes) * lanes, channels)
    kernels().pack(address(weight, torch.float32), None, channels, out, address(packed))
    return packed


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else address(tensor, torch.float32)
