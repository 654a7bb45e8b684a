"""The table of differentiable calls: outputs and gradients on the NPU are compared with the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.operator_table import FLOATS, Case, bf16, f16, f32


def _conv(**options: Any) -> Callable[..., Tensor]:
    return lambda x, w, b=None: F.conv2d(x, w, b, **options)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *, train: bool) -> Tensor:
    """With statistics in float32, as an nn.BatchNorm2d under half precision has them."""
    mean = torch.linspace(-0.5, 0.5, x.shape[1], device=x.device)
    return F.batch_norm(x, mean, mean.square() + 1, weight, bias, training=train)


def _labels(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0], device=x.device) % x.shape[1]


_IMAGE, _CHANNELS = (2, 6, 9, 9), (6,)

GRADIENTS = (
    Case("conv 3x3", _conv(padding=1), (_IMAGE, (4, 6, 3, 3)), FLOATS),
    Case("conv 1x1", _conv(), (_IMAGE, (8, 6, 1, 1)), FLOATS),
    Case("conv bias", _conv(stride=2), (_IMAGE, (4, 6, 3, 3), (4,)), FLOATS),
    Case("conv depthwise", _conv(stride=2, padding=1, groups=6), (_IMAGE, (6, 1, 3, 3)), FLOATS),
    Case("conv groups", _conv(padding=1, groups=2), (_IMAGE, (8, 3, 3, 3)), FLOATS),
    Case("conv dilated", _conv(dilation=2), (_IMAGE, (4, 6, 3, 3)), FLOATS),
    Case("conv 1d", F.conv1d, ((2, 3, 9), (4, 3, 3))),
    Case("conv transposed", F.conv_transpose2d, (_IMAGE, (6, 4, 3, 3))),
    Case("max_pool", lambda x: F.max_pool2d(x, 3, 2, 1), (_IMAGE,), FLOATS),
    Case("max_pool ceil", lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), (_IMAGE,)),
    Case("max_pool 3 dims", lambda x: F.max_pool2d(x, 3), ((6, 9, 9),)),
    Case("avg_pool", lambda x: F.avg_pool2d(x, 3, 2, 1), (_IMAGE,), FLOATS),
    Case("adaptive_avg_pool", lambda x: F.adaptive_avg_pool2d(x, 1), (_IMAGE,), FLOATS),
    Case("adaptive_avg_pool 3", lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (_IMAGE,)),
    Case("mean", lambda x: x.mean((2, 3)), (_IMAGE,), FLOATS),
    Case(
        "batch_norm train", lambda x, w, b: _batch_norm(x, w, b, train=True), (_IMAGE, _CHANNELS, _CHANNELS)
    ),
    Case(
        "batch_norm eval", lambda x, w, b: _batch_norm(x, w, b, train=False), (_IMAGE, _CHANNELS, _CHANNELS)
    ),
    Case(
        "batch_norm of half",
        lambda x, w, b: _batch_norm(x, w.float(), b.float(), train=True),
        (_IMAGE, _CHANNELS, _CHANNELS),
        (f16, bf16),
    ),
    Case("relu", torch.relu, (_IMAGE,), FLOATS),
    Case("relu in place", lambda x: (x * 1).relu_(), (_IMAGE,), FLOATS),
    Case("hardtanh", lambda x: F.hardtanh(x, -0.5, 0.5), (_IMAGE,)),
    Case("sigmoid", torch.sigmoid, (_IMAGE,)),
    Case("tanh", torch.tanh, (_IMAGE,)),
    Case("gelu", F.gelu, (_IMAGE,)),
    Case("silu", F.silu, (_IMAGE,)),
    Case("softmax", lambda x: torch.softmax(x, 1), (_IMAGE,)),
    Case("log_softmax", lambda x: torch.log_softmax(x, 1), ((4, 5),), FLOATS),
    Case("layer_norm", lambda x, w, b: F.layer_norm(x, (9,), w, b), (_IMAGE, (9,), (9,))),
    Case("linear", F.linear, ((4, 6), (3, 6), (3,)), FLOATS),
    Case("bmm", torch.bmm, ((2, 4, 6), (2, 6, 3)), FLOATS),
    Case("nll_loss", lambda x: F.nll_loss(x, _labels(x)), ((4, 5),)),
    Case("nll_loss sum", lambda x: F.nll_loss(x, _labels(x), reduction="sum"), ((4, 5),)),
    Case("nll_loss none", lambda x: F.nll_loss(x, _labels(x), reduction="none"), ((4, 5),)),
    Case("nll_loss ignore", lambda x: F.nll_loss(x, _labels(x), ignore_index=1), ((4, 5),)),
    Case("nll_loss 2d", lambda x: F.nll_loss(x, _labels(x)[:, None, None].expand(2, 9, 9)), (_IMAGE,)),
    Case("bce", lambda x: F.binary_cross_entropy(x.sigmoid(), x.detach().sigmoid()), (_IMAGE,)),
    Case("leaky_relu", lambda x: F.leaky_relu(x, 0.1), (_IMAGE,)),
    Case("cross_entropy", lambda x: F.cross_entropy(x, _labels(x)), ((4, 5),), FLOATS),
    Case("cross_entropy smoothed", lambda x: F.cross_entropy(x, _labels(x), label_smoothing=0.1), ((4, 5),)),
    Case("cross_entropy of probabilities", lambda x, y: F.cross_entropy(x, y.softmax(1)), ((4, 5), (4, 5))),
    Case("mse_loss", F.mse_loss, ((4, 5), (4, 5))),
    Case("max dim", lambda x: x.max(1)[0], (_IMAGE,)),
    Case("index_select", lambda x: x.index_select(1, _labels(x[0].flatten(1))), (_IMAGE,), FLOATS),
    Case("index", lambda x: x[:, [3, 1, 1]], (_IMAGE,)),
    Case("gather", lambda x: x.gather(1, x.argsort(dim=1, stable=True)), ((4, 5),)),
    Case("embedding", lambda w: F.embedding(torch.tensor([0, 2, 2]).to(w.device), w), ((4, 5),)),
    Case("channel_shuffle", lambda x: F.channel_shuffle(x, 3), (_IMAGE,), FLOATS),
    Case("cat", lambda x, y: torch.cat([x, y * 2], 1), (_IMAGE, _IMAGE), FLOATS),
    Case("stack", lambda x, y: torch.stack([x, y * 2], 1), (_IMAGE, _IMAGE)),
    Case("chunk", lambda x: x.chunk(2, 1)[1] * 2, (_IMAGE,), FLOATS),
    Case("expand", lambda x: x.expand(3, 2, 6) * 2, ((2, 6),)),
    Case("pow", lambda x: x**2, (_IMAGE,)),
    Case("norm", torch.linalg.vector_norm, (_IMAGE,)),
    Case("var", lambda x: x.var((0, 2, 3)), (_IMAGE,)),
    Case("where", lambda x, y: torch.where(x > 0, x, y), (_IMAGE, _IMAGE)),
    Case("clamp", lambda x: x.clamp(-0.5, 0.5), (_IMAGE,)),
    Case("to half and back", lambda x: x.to(f16).to(f32), (_IMAGE,)),
)
