"""The twin trees ``params`` and ``batch_stats``, and how they start."""

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
    """Fresh variables with torch's default initialisation, which torchvision and the original use.

    Convolutions and the classifier are uniform in ±1/sqrt(fan_in) (Kaiming-uniform with a=sqrt(5));
    batch norms start at weight 1, bias 0, mean 0, variance 1.

    Args:
        config: the architecture.
        generator: the only source of randomness. It lives on the CPU, so that one seed gives one set of
            weights on every device.
        device: where the variables are put.
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
    """A fresh head ``{"weight": (num_classes, C), "bias": (num_classes,)}``, also for fine-tuning."""
    features = config.stage_channels[-1]
    bound = features**-0.5
    weight = torch.empty(config.num_classes, features).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(config.num_classes).uniform_(-bound, bound, generator=generator)
    return {"weight": weight.to(dtype), "bias": bias.to(dtype)}


def set_path(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Put ``value`` at ``path`` of a tree under construction, making the dicts on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def get_path(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The value at ``path``."""
    for key in path:
        tree = tree[key]
    return tree


def _uniform(layer: ConvBN, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    _, fan_channels, height, width = layer.weight_shape
    bound = (fan_channels * height * width) ** -0.5
    return torch.empty(layer.weight_shape).uniform_(-bound, bound, generator=generator).to(dtype)
