"""The peer on an NPU: ShuffleNetV2 as a module with the structure of the original.

It uses modules with state, and between units ``torch_npu.contrib.module.ChannelShuffle``, which fuses
concatenation, shuffle and the next unit's split. It trains with ``torch.optim.SGD``, with autocast and a
gradient scaler for O2 (which replaced apex), and under ``DistributedDataParallel``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from shufflenet_fn.bench.step_candidates import module_step
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.model.config import ShuffleNetConfig


def peer_step(
    config: ShuffleNetConfig, device: torch.device, *, distributed: bool = False, **sizes: Any
) -> Step:
    """Build the peer's step. ``sizes``: as for ``module_step``."""
    model: nn.Module = AscendShuffleNet(config).to(device)
    if distributed:
        model = nn.parallel.DistributedDataParallel(model, device_ids=[device.index], broadcast_buffers=False)
    return module_step(model, config, device, **sizes)


class AscendShuffleNet(nn.Module):
    """The network, which needs torch_npu. All units but the last of a stage return the halves of the map."""

    def __init__(self, config: ShuffleNetConfig) -> None:
        super().__init__()
        stem, *widths, last = config.stage_channels
        self.stem = nn.Sequential(_convolution(3, stem, 3, stride=2), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        channels = stem
        for repeats, width in zip(config.stage_repeats, widths, strict=True):
            units: list[nn.Module] = [_Downsampling(channels, width)]
            units += [_Basic(width, last=i == repeats - 2) for i in range(repeats - 1)]
            self.stages.append(nn.ModuleList(units))
            channels = width
        self.last = nn.Sequential(_convolution(channels, last, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(last, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Any = self.pool(self.stem(x))
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for unit in stage:
                y = unit(y)
        y = nnf.adaptive_avg_pool2d(self.last(y), 1).flatten(1)
        logits: Tensor = self.fc(y)
        return logits


class _Downsampling(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch1 = nn.Sequential(
            _convolution(channels, channels, 3, stride=2, groups=channels),
            _convolution(channels, half, 1),
            nn.ReLU(inplace=True),
        )
        self.branch2 = _branch2(channels, half, stride=2)
        self.shuffle = _channel_shuffle(2 * half, split=True)

    def forward(self, x: Tensor) -> Any:
        return self.shuffle(self.branch1(x), self.branch2(x))


class _Basic(nn.Module):
    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        half = width // 2
        self.branch2 = _branch2(half, half, stride=1)
        self.shuffle = _channel_shuffle(2 * half, split=not last)

    def forward(self, halves: tuple[Tensor, Tensor]) -> Any:
        x1, x2 = halves
        return self.shuffle(x1, self.branch2(x2))


def _branch2(channels: int, half: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(channels, half, 1),
        nn.ReLU(inplace=True),
        _convolution(half, half, 3, stride=stride, groups=half),
        _convolution(half, half, 1),
        nn.ReLU(inplace=True),
    )


def _convolution(
    channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


def _channel_shuffle(channels: int, *, split: bool) -> nn.Module:
    from torch_npu.contrib.module import ChannelShuffle

    module: nn.Module = ChannelShuffle(channels, groups=2, split_shuffle=split)
    return module
