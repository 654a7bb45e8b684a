"""The trees ``params`` and ``batch_stats``, and their initialisation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.model.architecture import ConvBN, conv_layers
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.tree import tree_to

Params = dict[str, Any]
BatchStats = dict[str, Any]


class Variables(NamedTuple):
    """All tensors of a model.

    ``params``: leaves ``weight`` and ``bias``, convolutions OIHW. ``batch_stats``: leaves ``mean`` and
    ``var`` (running, unbiased), float32, under the same paths. Both are nested dicts with string keys,
    for example ``params["stage2"]["0"]["branch1"]["dw"]["conv"]["weight"]``.
    """

    params: Params
    batch_stats: BatchStats


def init(
    config: ShuffleNetConfig,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Variables:
    """Initialise variables by torch's default rules, as torchvision and the original do.

    Convolutions and the classifier are uniform in ±1/sqrt(fan_in) (Kaiming-uniform with a=sqrt(5)).
    Batch norms start with weight 1, bias 0, mean 0 and variance 1.

    Args:
        config: the architecture.
        generator: a CPU generator, the only source of randomness. One seed gives the same weights on every
            device.
        device: device of the variables.
        dtype: dtype of ``params``; ``batch_stats`` are float32 (float64 if ``dtype`` is float64).

    Example:
        >>> config = get_config("x0_5", num_classes=10)
        >>> variables = init(config, torch.Generator().manual_seed(0))
    """
    stats_dtype = torch.promote_types(dtype, torch.float32)
    params: Params = {}
    batch_stats: BatchStats = {}
    for layer in conv_layers(config):
        channels = layer.out_channels
        set_path(
            params,
            layer.path,
            {
                "conv": {"weight": _uniform(layer, generator, dtype)},
                "bn": {
                    "weight": torch.ones(channels, dtype=dtype),
                    "bias": torch.zeros(channels, dtype=dtype),
                },
            },
        )
        set_path(
            batch_stats,
            layer.path,
            {
                "bn": {
                    "mean": torch.zeros(channels, dtype=stats_dtype),
                    "var": torch.ones(channels, dtype=stats_dtype),
                }
            },
        )
    params["fc"] = init_classifier(config, generator, dtype=dtype)
    return tree_to(Variables(params, batch_stats), torch.device(device))


def init_classifier(
    config: ShuffleNetConfig, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> Params:
    """Initialise a classifier, ``{"weight": (num_classes, C), "bias": (num_classes,)}``."""
    features = config.stage_channels[-1]
    bound = features**-0.5
    weight = torch.empty(config.num_classes, features).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(config.num_classes).uniform_(-bound, bound, generator=generator)
    return {"weight": weight.to(dtype), "bias": bias.to(dtype)}


def set_path(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set ``value`` at ``path`` of ``tree`` in place, and create missing dicts."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def get_path(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    """Return the value at ``path``."""
    for key in path:
        tree = tree[key]
    return tree


def _uniform(layer: ConvBN, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    _, fan_channels, height, width = layer.weight_shape
    bound = (fan_channels * height * width) ** -0.5
    return torch.empty(layer.weight_shape).uniform_(-bound, bound, generator=generator).to(dtype)
