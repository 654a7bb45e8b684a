"""Configuration of a ShuffleNetV2: widths, depths, classes. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.support.errors import UsageError

PREFIX: Final = "shufflenet_v2_"

_STAGE_CHANNELS: Final[Mapping[str, tuple[int, int, int, int, int]]] = MappingProxyType(
    {
        "x0_5": (24, 48, 96, 192, 1024),
        "x1_0": (24, 116, 232, 464, 1024),
        "x1_5": (24, 176, 352, 704, 1024),
        "x2_0": (24, 244, 488, 976, 2048),
    }
)

ARCHITECTURES: Final = tuple(PREFIX + width for width in _STAGE_CHANNELS)
ARCH_NAMES: Final = (*_STAGE_CHANNELS, *ARCHITECTURES)
FEATURES: Final = ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5", "pooled")
"""Names of the feature maps that ``features`` returns."""


@dataclass(frozen=True)
class ShuffleNetConfig:
    """The architecture, as in torchvision (paper: table 5; arXiv:1807.11164).

    Args:
        stage_repeats: number of units in stages 2, 3 and 4.
        stage_channels: output channels of conv1, stages 2 to 4, and conv5. Those of stages 2 to 4 are even.
        num_classes: number of classes.
        bn_momentum: torch's convention, ``running = (1 - momentum) * running + momentum * batch``.
        bn_eps: added to the variance.

    Raises:
        ValueError: a field is out of range; the message names the field, its value and what is allowed.
    """

    stage_repeats: tuple[int, int, int] = (4, 8, 4)
    stage_channels: tuple[int, int, int, int, int] = _STAGE_CHANNELS["x1_0"]
    num_classes: int = 1000
    bn_momentum: float = 0.1
    bn_eps: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.stage_repeats) != 3 or min(self.stage_repeats) < 1:
            raise ValueError(f"stage_repeats must be three positive integers, not {self.stage_repeats!r}")
        if len(self.stage_channels) != 5 or min(self.stage_channels) < 1:
            raise ValueError(f"stage_channels must be five positive integers, not {self.stage_channels!r}")
        odd = [c for c in self.stage_channels[1:4] if c % 2]
        if odd:
            raise ValueError(
                f"stage_channels of stages 2 to 4 must be even (they are split in halves), not {odd[0]}"
            )
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {self.num_classes}")
        if not 0.0 <= self.bn_momentum <= 1.0:
            raise ValueError(f"bn_momentum must lie in [0, 1], not {self.bn_momentum}")
        if not self.bn_eps > 0.0:
            raise ValueError(f"bn_eps must be positive, not {self.bn_eps}")


def canonical_name(name: str) -> str:
    """Return the full name of an architecture: ``shufflenet_v2_x1_0`` for ``x1_0``.

    Raises:
        UsageError: the name is unknown; the message lists the valid names and the closest one.
    """
    full = name if name.startswith(PREFIX) else PREFIX + name
    if full not in ARCHITECTURES:
        hint = suggestion(full, ARCHITECTURES)
        valid = ", ".join(ARCHITECTURES)
        raise UsageError(
            f"unknown architecture {name!r}{hint}. "
            f"Valid architectures: {valid}; the short forms x0_5, x1_0, x1_5, x2_0 do as well."
        )
    return full


PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {"stem": "conv1", **{name: name for name in ("stage2", "stage3", "stage4", "conv5")}}
)
"""Names by which users freeze parts of the network, and their keys in ``params``."""


def frozen_parts(text: str) -> tuple[str, ...]:
    """Return the keys in ``params`` of the parts in a list such as ``stem,stage2``; none for ``none``.

    Raises:
        UsageError: a name is unknown, or the classifier's.
    """
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    for name in names:
        if name in ("fc", "head"):
            raise UsageError(
                f"--freeze {text!r}: the classifier is always trained. Choose among {', '.join(PARTS)}."
            )
        if name not in (*PARTS, "conv1"):
            raise UsageError(
                f"--freeze {text!r}: {name!r} is no part of the network{suggestion(name, PARTS)}. List parts "
                f"among {', '.join(PARTS)}, separated by commas, or give none."
            )
    return tuple(key for part, key in PARTS.items() if part in names or key in names)


def get_config(name: str, **overrides: Any) -> ShuffleNetConfig:
    """Return the config of a named architecture, with fields replaced by ``overrides``.

    >>> get_config("x0_5", num_classes=10).stage_channels
    (24, 48, 96, 192, 1024)
    """
    width = canonical_name(name).removeprefix(PREFIX)
    return replace(ShuffleNetConfig(stage_channels=_STAGE_CHANNELS[width]), **overrides)
