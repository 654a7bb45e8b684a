"""The operations of ``bench ops``: primitives and units of stage 2, which has the largest feature maps.

N images, C channels of stage 2, H×W pixels of stage 2 (an eighth of the image's side). Every operation is
written twice: with a backend's primitives, and as torchvision's model does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn.model import network
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables
from shufflenet_fn_backends import routed_map
from shufflenet_fn_backends.fused import feature_map
from shufflenet_fn_backends.primitives import Backend

Tensors = Mapping[str, Tensor]

_EPS = 1e-5


class Op(NamedTuple):
    """An operation.

    ``shapes``: shapes of its feature maps and weights, by name; names of maps start with x. ``ours`` computes
    one NCHW tensor from them with a backend and the stage's parameters, in the channel order of the backend.
    ``torchvision`` does the same with functions and modules of torchvision (stage 2 of the model). ``units``:
    number of occurrences of the operation. ``uses``: the units whose parameters it uses.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    ours: Callable[[Backend[Any], Tensors, Variables], Tensor]
    torchvision: Callable[[Any, Tensors, Any], Tensor]
    units: int = 1
    uses: tuple[str, ...] = ()


def operations(config: ShuffleNetConfig, batch_size: int, image_size: int) -> tuple[Op, ...]:
    """Return the operations with the sizes of ``config``'s stage 2."""
    n, stem, c = batch_size, config.stage_channels[0], config.stage_channels[1]
    # The stem, the max pool and the stage each halve the side, rounded up.
    half = -(-image_size // 2)
    quarter = -(-half // 2)
    side, h = -(-quarter // 2), c // 2
    halves = {"x1": (n, h, side, side), "x2": (n, h, side, side)}
    branch = {"x": (n, h, side, side)}
    units = config.stage_repeats[0] - 1

    def conv(name: str, side: int, weight: tuple[int, ...], stride: int) -> Op:
        options: dict[str, Any] = {"stride": stride, "padding": weight[-1] // 2, "groups": h // weight[1]}
        return Op(
            name,
            {"x": (n, h, side, side), "weight": weight},
            lambda b, t, stage: b.to_tensor(b.conv2d(lifted(b, t["x"]), t["weight"], **options)),
            lambda models, t, stage: nnf.conv2d(t["x"], t["weight"], **options),
        )

    return (
        Op("channel split and shuffle", halves, _split_shuffle(units), _tv_split_shuffle(units), units),
        Op("to_tensor of a shuffled map", halves, _split_shuffle(0), _tv_shuffle),
        conv("conv2d 1x1", side, (h, h, 1, 1), 1),
        conv("conv2d depthwise 3x3", side, (h, 1, 3, 3), 1),
        conv("conv2d depthwise 3x3, stride 2", quarter, (h, 1, 3, 3), 2),
        Op(
            "batch_norm_train and ReLU", {**branch, "weight": (h,), "bias": (h,)}, _batch_norm, _tv_batch_norm
        ),
        Op(
            "max_pool2d",
            {"x": (n, stem, half, half)},
            lambda b, t, stage: b.to_tensor(b.max_pool2d(lifted(b, t["x"]), kernel=3, stride=2, padding=1)),
            lambda models, t, stage: nnf.max_pool2d(t["x"], 3, 2, 1),
        ),
        Op("basic unit", halves, _basic_units, _tv_basic_units, units, tuple(map(str, range(1, units + 1)))),
        Op(
            "downsampling unit",
            {"x": (n, stem, quarter, quarter)},
            _downsampling,
            lambda models, t, stage: stage[0](t["x"]),
            uses=("0",),
        ),
    )


def lifted(backend: Backend[Any], x: Tensor) -> Any:
    """Return ``x`` as a feature map of the backend, without computation."""
    if backend.name in ("routed", "npu"):
        return routed_map.routed(x)
    if backend.name == "cpu":
        return feature_map.single(feature_map.Part(x))
    return x


def _split_shuffle(units: int) -> Callable[[Backend[Any], Tensors, Variables], Tensor]:
    """Build a stage whose branches do nothing, up to the map that the next stage reads."""

    def run(backend: Backend[Any], t: Tensors, stage: Variables) -> Tensor:
        x = backend.channel_shuffle(lifted(backend, t["x1"]), lifted(backend, t["x2"]))
        for _ in range(units):
            x = backend.channel_shuffle(*backend.channel_split(x))
        return backend.to_tensor(x)

    return run


def _tv_split_shuffle(units: int) -> Callable[[Any, Tensors, Any], Tensor]:
    def run(models: Any, t: Tensors, stage: Any) -> Tensor:
        x = _tv_shuffle(models, t, stage)
        for _ in range(units):
            x1, x2 = x.chunk(2, dim=1)
            x = models.shufflenetv2.channel_shuffle(torch.cat((x1, x2), dim=1), 2)
        return x

    return run


def _tv_shuffle(models: Any, t: Tensors, stage: Any) -> Tensor:
    x: Tensor = models.shufflenetv2.channel_shuffle(torch.cat((t["x1"], t["x2"]), dim=1), 2)
    return x


def _batch_norm(backend: Backend[Any], t: Tensors, stage: Variables) -> Tensor:
    y, _ = backend.batch_norm_train(lifted(backend, t["x"]), t["weight"], t["bias"], eps=_EPS, relu=True)
    return backend.to_tensor(y)


def _tv_batch_norm(models: Any, t: Tensors, stage: Any) -> Tensor:
    y = nnf.batch_norm(t["x"], None, None, t["weight"], t["bias"], True, 0.1, _EPS)
    return nnf.relu(y, inplace=True)


def _basic_units(backend: Backend[Any], t: Tensors, stage: Variables) -> Tensor:
    """Compute all basic units of the stage, because routing defers work to their end."""
    context = network._Context(backend, network._layer(backend, ShuffleNetConfig(), train=True))
    x = backend.channel_shuffle(lifted(backend, t["x1"]), lifted(backend, t["x2"]))
    for unit in range(1, len(stage.params)):
        key = str(unit)
        x, _ = network._basic_unit(context, stage.params[key], stage.batch_stats[key], x)
    return backend.to_tensor(x)


def _tv_basic_units(models: Any, t: Tensors, stage: Any) -> Tensor:
    x = _tv_shuffle(models, t, stage)
    for unit in list(stage)[1:]:
        x = unit(x)
    return x


def _downsampling(backend: Backend[Any], t: Tensors, stage: Variables) -> Tensor:
    context = network._Context(backend, network._layer(backend, ShuffleNetConfig(), train=True))
    x, _ = network._downsampling_unit(
        context, stage.params["0"], stage.batch_stats["0"], lifted(backend, t["x"])
    )
    return backend.to_tensor(x)
