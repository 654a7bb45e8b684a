"""Memory layout of tensors, as the kernels expect it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

AFFINE, RELU = 1, 2
"""Bits of a part's flag: a normalisation is pending; a ReLU is pending after it."""

Fields = ctypes.Array[ctypes.c_int64]


def address(x: Tensor, dtype: torch.dtype | None = None) -> int:
    """Return the address of the tensor's data, for a kernel that reads or writes it as ``dtype``.

    Raises:
        ValueError: the data is not in the CPU's memory (it is on another device, or the tensor is fake while
            torch traces), or it has another dtype.
    """
    try:
        pointer = x.data_ptr() if x.device.type == "cpu" else 0
    except RuntimeError:  # a batched tensor of torch.autograd, which does not use the vmap rule
        pointer = 0
    if (pointer == 0 and x.numel()) or (dtype is not None and x.dtype != dtype):
        raise ValueError(
            f"the CPU's kernels take tensors of {dtype or 'any dtype'} in its memory, not {x.dtype} on "
            f"{x.device}"
            + (
                ""
                if pointer
                else " without data: they can be neither traced nor batched; take backend routed for that"
            )
        )
    return pointer


def is_half(x: Tensor) -> int:
    """Return the dtype code of the kernels: 1 for bfloat16, 0 for float32."""
    return int(x.dtype is torch.bfloat16)


class Shape(NamedTuple):
    """Extent of a feature map without its channels."""

    images: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width

    def halved(self) -> Shape:
        """Return the shape after a 3x3 window with padding 1 and stride 2."""
        return Shape(self.images, (self.height - 1) // 2 + 1, (self.width - 1) // 2 + 1)


def shape_of(x: Tensor) -> Shape:
    n, _, h, w = x.shape
    return Shape(n, h, w)


def empty(shape: Shape, channels: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised (N, C, H, W) tensor in channels_last."""
    n, h, w = shape
    # torch.empty with memory_format takes 3 µs longer.
    strides = (h * w * channels, 1, w * channels, channels)
    return torch.empty_strided((n, channels, h, w), strides, dtype=dtype, device="cpu")


def vector(channels: int, rows: int | None = None) -> Tensor:
    """Return an uninitialised float32 CPU tensor, (channels,) or (rows, channels)."""
    size = (channels,) if rows is None else (rows, channels)
    return torch.empty(size, dtype=torch.float32, device="cpu")


def pixel_stride(x: Tensor) -> int:
    """Return the distance in elements between pixels of an NCHW tensor, or 0 if it is not constant.

    The channels of a pixel must be contiguous. The tensor may be a range of channels of a larger one.
    """
    n, c, h, w = x.shape
    sn, sc, sh, sw = x.stride()
    if sc != 1 and c > 1:
        return 0
    step = sw if w > 1 else sh if h > 1 else sn if n > 1 else c
    if step < c or (h > 1 and sh != w * step) or (n > 1 and sn != h * w * step):
        return 0
    return step


def dense(x: Tensor) -> Tensor:
    """Return ``x`` if the kernels can read its layout, else a copy in channels_last."""
    return x if pixel_stride(x) else x.contiguous(memory_format=torch.channels_last)


def fields(*values: int) -> Fields:
    """Pack the arguments of a kernel."""
    return (ctypes.c_int64 * len(values))(*values)


class Parts:
    """The parts of a feature map as kernel arguments.

    Args:
        tensors: for each part z (N, C, H, W), float32 or bfloat16. If its flag has ``AFFINE``, z is followed
            by mean, scale and beta (3, C), float32, of a normalisation y = (z - mean) * scale + beta.
        flags: flag of each part.
        gradients: whether to allocate the gradients of all tensors, in ``gradients``.
    """

    def __init__(self, tensors: Sequence[Tensor], flags: Sequence[int], *, gradients: bool = False) -> None:
        self.gradients: list[Tensor] = []
        self.channels = 0
        self._alive: list[Tensor] = []
        values: list[int] = []
        position = 0
        for flag in flags:
            z = dense(tensors[position])
            if shape_of(z) != shape_of(tensors[0]):
                raise ValueError(
                    f"parts of {tuple(tensors[0].shape)} and {tuple(z.shape)} do not lie side by side"
                )
            channels = z.shape[1]
            self.channels += channels
            values += (address(z, tensors[0].dtype), pixel_stride(z), channels)
            dz = empty(shape_of(z), channels, z.dtype) if gradients else None
            into = [] if dz is None else [address(dz), channels]
            self._alive.append(z)
            if dz is not None:
                self.gradients.append(dz)
            if flag & AFFINE:
                affine = tensors[position + 1]
                if affine.shape != (3, channels) or affine.stride(1) != 1:
                    raise ValueError(
                        f"a normalisation of {channels} channels has {tuple(affine.shape)} coefficients"
                    )
                values += _rows(affine)
                if dz is not None:
                    daffine = vector(channels, 3)
                    self.gradients.append(daffine)
                    into += _rows(daffine)
            else:
                values += (0, 0, 0)
            position += 2 if flag & AFFINE else 1
            values.append(flag & RELU)
            values += into + [0] * (5 - len(into))
        self.fields = fields(*values)
        self.count = len(flags)
        self.shape = shape_of(tensors[0])
        self.dtype = tensors[0].dtype


def _rows(affine: Tensor) -> tuple[int, int, int]:
    """Return the addresses of mean, scale and beta."""
    start, step = address(affine, torch.float32), affine.stride(0) * affine.element_size()
    return start, start + step, start + 2 * step


class OutputGradient:
    """The gradient of a convolution's result: the direct gradient plus those through its moments.

    Args:
        z: the result, (N, C, H, W).
        mean: mean of z, (C,).
        grads: gradients of z, of its mean and of its variance.
    """

    def __init__(self, z: Tensor, mean: Tensor, grads: Sequence[Tensor]) -> None:
        dz, dmean, dvar = grads
        # Hooks for saved tensors may have changed the layout of z and mean.
        self._alive = (
            dense(dz.to(z.dtype)),
            dense(z),
            mean.contiguous(),
            dmean.contiguous(),
            dvar.contiguous(),
        )
        dz, z, mean, dmean, dvar = self._alive
        self.fields = fields(
            address(dz),
            pixel_stride(dz),
            address(z),
            pixel_stride(z),
            address(mean, torch.float32),
            address(dmean, torch.float32),
            address(dvar, torch.float32),
            z.shape[1],
            shape_of(z).pixels,
        )
