"""Backend ``native``: ``reference`` with one operator for the shuffle, ``aten::channel_shuffle``.

torch_npu maps it to CANN's ChannelShuffle kernel, which replaces the transposed copy. The ``cat`` before it
and the split after it remain. A feature map is a plain NCHW tensor. The operator has derivatives of any order
in both modes, batching rules and a meta kernel, so it needs no wrapper (torch 2.13, 2.14).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn_backends import reference
from shufflenet_fn_backends.primitives import Backend, check_equal_halves


def channel_shuffle(x1: Tensor, x2: Tensor) -> Tensor:
    if x1.stride(1) == 1 and _drops_channels_last(x1.device):
        return reference.channel_shuffle(x1, x2)
    check_equal_halves(x1, x2)
    return nnf.channel_shuffle(torch.cat((x1, x2), dim=1), 2)


def _drops_channels_last(device: torch.device) -> bool:
    # The CPU kernel keeps channels_last. CUDA's, and the decomposition that compilers use on any device,
    # return NCHW, so every later convolution would convert. The reference shuffles the NHWC view.
    # NPU tensors are never channels_last, but 1×1 maps pass the check, and they must use CANN's kernel too.
    return device.type == "cuda" or torch.compiler.is_compiling()


BACKEND: Backend[Tensor] = replace(reference.BACKEND, name="native", channel_shuffle=channel_shuffle)
