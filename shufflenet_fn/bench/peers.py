"""Peers that benchmarks measure against: torchvision's model, and on an NPU a module like the original's."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from shufflenet_fn.bench.workers import Step
from shufflenet_fn.model.config import ShuffleNetConfig, canonical_name
from shufflenet_fn_backends.fused.library import find_compiler
from shufflenet_fn_backends.support.errors import DeviceError, UsageError

OURS: Final = "shufflenet-fn"
OURS_COMPILED: Final = "shufflenet-fn compiled"
EMULATED: Final = (
    "these times mean nothing: they are of the emulator of CANN, which computes on this machine's CPU, and "
    "not of a chip"
)
_COMPILATIONS: Final = 8


class Peer(NamedTuple):
    """A way to run torchvision's model.

    ``memory_format``: layout of its weights and the images. ``compiled``: whether it runs under
    ``torch.compile``. ``folded``: whether its batch norms are folded into the convolutions.
    """

    memory_format: torch.memory_format
    compiled: bool = False
    folded: bool = False


def peers(*, folding: bool) -> dict[str, Peer]:
    """Return all peers by name; with ``folding``, for inference, also those with folded batch norms."""
    layouts = (("", torch.contiguous_format), (" channels_last", torch.channels_last))
    return {
        f"torchvision{layout}{' folded' * folded}{' compiled' * compiled}": Peer(
            memory_format, compiled, folded
        )
        for compiled in (False, True)
        for folded in ((False, True) if folding else (False,))
        for layout, memory_format in layouts
    }


class Field(NamedTuple):
    """``present``: names of the peers to measure. ``left_out``: the other peers' names, with the reasons."""

    present: tuple[str, ...]
    left_out: dict[str, str]

    def warnings(self) -> list[str]:
        """Return warnings about peers that are left out, unless the user left them out."""
        return [
            f"WARNING: not measured: {', '.join(names)} ({reason})"
            for reason, names in by_reason(self.left_out).items()
            if not reason.startswith("--")
        ]


def by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of what was left out, by reason."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def available(all_peers: Mapping[str, Peer], *, compiled: bool) -> Field:
    """Return the peers that can be measured here. Compiled ones need ``compiled`` and a C++ compiler."""
    reason = "--no-compile"
    try:
        find_compiler()
    except DeviceError as error:
        if compiled:
            compiled, reason = False, str(error).split(". ")[0]
    present = tuple(name for name, peer in all_peers.items() if compiled or not peer.compiled)
    return Field(present, {name: reason for name in all_peers if name not in present})


def settled(step: Step) -> Step:
    """Call ``step`` until ``torch.compile`` has nothing left to compile, and return it.

    torch compiles again if the layout of an argument changes, as that of a training state does in the first
    steps.
    """
    stats = importlib.import_module("torch._dynamo.utils").counters["stats"]
    for _ in range(_COMPILATIONS):
        before = stats["unique_graphs"]
        step()
        if stats["unique_graphs"] == before:
            break
    return step


def torchvision_models(command: str) -> Any:
    """Import and return ``torchvision.models``.

    Raises:
        UsageError: it cannot be imported; the message says why ``command`` needs it.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise UsageError(
            f"{command} measures against torchvision, which cannot be imported ({error}). Install it: "
            "pip install 'shufflenet-fn[bench]'."
        ) from error
    return models


def torchvision_model(command: str, arch: str, state_dict: Mapping[str, Tensor]) -> Any:
    """Return torchvision's module of an architecture with these weights, in training mode."""
    models = torchvision_models(command)
    model = getattr(models, canonical_name(arch))()
    model.load_state_dict(state_dict)
    return model.train()


class AscendShuffleNet(nn.Module):
    """The peer on an NPU: a module with the structure of the original. It needs torch_npu.

    Between units it has ``torch_npu.contrib.module.ChannelShuffle``, which fuses concatenation, shuffle and
    the next unit's split: all units but the last of a stage return the halves of the map.
    """

    def __init__(self, config: ShuffleNetConfig) -> None:
        super().__init__()
        stem, *widths, last = config.stage_channels
        self.stem = nn.Sequential(_convolution(3, stem, 3, stride=2), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        units: list[nn.Module] = []
        channels = stem
        for repeats, width in zip(config.stage_repeats, widths, strict=True):
            units.append(_Downsampling(channels, width))
            units += [_Basic(width, last=i == repeats - 2) for i in range(repeats - 1)]
            channels = width
        self.units = nn.Sequential(*units)
        self.last = nn.Sequential(_convolution(channels, last, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(last, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.units(self.pool(self.stem(x))))
        logits: Tensor = self.fc(nnf.adaptive_avg_pool2d(y, 1).flatten(1))
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
        self.shuffle = _channel_shuffle(width, split=True)

    def forward(self, x: Tensor) -> Any:
        return self.shuffle(self.branch1(x), self.branch2(x))


class _Basic(nn.Module):
    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        half = width // 2
        self.branch2 = _branch2(half, half, stride=1)
        self.shuffle = _channel_shuffle(width, split=not last)

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
