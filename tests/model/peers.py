"""torchvision's modules as peers. Import this module only if torchvision is installed."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

from tests.model.support import generator

WIDTHS = ("x0_5", "x1_0", "x1_5", "x2_0")


def peer(
    width: str, *, num_classes: int = 10, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """``shufflenet_v2_<width>`` with batch norms far from their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = getattr(torchvision.models, f"shufflenet_v2_{width}")(num_classes=num_classes)
    rng = generator(seed)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5, generator=rng)
                norm.bias.normal_(0.0, 0.2, generator=rng)
                norm.running_mean.normal_(0.0, 0.2, generator=rng)
                norm.running_var.uniform_(0.5, 2.0, generator=rng)
    return module.to(dtype)
