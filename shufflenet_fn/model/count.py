"""Parameters and multiply-accumulates, counted on the network itself and not from a formula."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import init
from shufflenet_fn.tree import tree_leaves, tree_to
from shufflenet_fn_backends.reference import BACKEND as REFERENCE


def count_params(config: ShuffleNetConfig) -> int:
    """Trainable parameters: convolutions, batch-norm scales and shifts, classifier."""
    return sum(leaf.numel() for leaf in tree_leaves(init(config, torch.Generator()).params))


def count_macs(config: ShuffleNetConfig, *, height: int = 224, width: int = 224) -> int:
    """Multiply-accumulates of convolutions and classifier for one image of ``height`` × ``width``.

    The paper's "FLOPs" are these; other sources count a multiply-accumulate as two. The network is run
    on the meta device with a convolution that counts, so nothing is computed.
    """
    counts: list[int] = []

    def counting_conv2d(
        x: Tensor, weight: Tensor, *, stride: int, padding: int, groups: int
    ) -> Tensor:
        y = REFERENCE.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
        counts.append(y.numel() * weight[0].numel())
        return y

    meta = torch.device("meta")
    variables = tree_to(init(config, torch.Generator()), meta)
    image = torch.empty(1, 3, height, width, device=meta)
    logits, _ = apply(config, variables, image, backend=replace(REFERENCE, conv2d=counting_conv2d))
    return sum(counts) + logits.numel() * config.stage_channels[-1]
