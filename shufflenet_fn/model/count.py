"""Counts of parameters and multiply-accumulates, measured on the network itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import init
from shufflenet_fn.tree import tree_leaves
from shufflenet_fn_backends.reference import BACKEND as REFERENCE


def count_params(config: ShuffleNetConfig) -> int:
    """Count trainable parameters: convolutions, batch-norm scales and shifts, classifier."""
    return sum(leaf.numel() for leaf in tree_leaves(init(config, torch.Generator()).params))


def count_macs(config: ShuffleNetConfig, *, height: int = 224, width: int = 224) -> int:
    """Count multiply-accumulates of convolutions and classifier for one image of ``height`` × ``width``.

    The paper calls them FLOPs; other sources count a multiply-accumulate as two. The network runs with a
    convolution that counts and does not compute. It does not run on the meta device, because torch would
    first import its compiler, which takes 1.5 s.
    """
    counts: list[int] = []

    def counting_conv2d(x: Tensor, weight: Tensor, *, stride: int, padding: int, groups: int) -> Tensor:
        sides = (
            (side + 2 * padding - kernel) // stride + 1
            for side, kernel in zip(x.shape[-2:], weight.shape[-2:], strict=True)
        )
        y = x.new_zeros(x.shape[0], weight.shape[0], *sides)
        counts.append(y.numel() * weight[0].numel())
        return y

    image = torch.zeros(1, 3, height, width, device="cpu")
    variables = init(config, torch.Generator())
    with torch.no_grad():
        counting = replace(REFERENCE, conv2d=counting_conv2d)
        logits, _ = apply(config, variables, image, backend=counting)
    return sum(counts) + logits.numel() * config.stage_channels[-1]
