"""The table of cases: primitives and units as functions of a backend and a tree of inputs.

An input tree is a dict. ``x…`` are images or feature maps (N, C, H, W). ``bn`` and ``stats`` stay in float32
if the other inputs are in half precision, as in the network. ``stats`` are not differentiated with respect
to. Results ``y…`` are tensors to differentiate; other results are only compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from shufflenet_fn.model import network
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn_backends.primitives import Backend, Moments
from tests.model.support import generator, tiny_variables

Inputs = dict[str, Any]
Outputs = dict[str, Any]
EPS = 1e-5
HALVES = {"x0_5": 24, "x1_0": 58, "x1_5": 88, "x2_0": 122}
"""Half the channels of stage 2 by width: of 16 divides none, of 8 two."""


class Case(NamedTuple):
    """``inputs(seed)`` in float64, and the outputs of ``run(backend, inputs)``."""

    name: str
    run: Callable[[Backend[Any], Inputs], Outputs]
    inputs: Callable[[int], Inputs]

    @property
    def shuffles(self) -> bool:
        """Whether the case shuffles channels."""
        return self.name.startswith(("shuffle", "basic", "down", "stage", "conv5"))


def lift(b: Backend[Any], x: Tensor) -> Any:
    """A tensor as the backend's feature map, by the primitive that takes one and can leave it as it is."""
    return b.max_pool2d(x, kernel=1, stride=1, padding=0)


def invstd_of(moments: Moments) -> Tensor:
    """1/sqrt(biased variance + eps), whichever of the two the device's kernel saves."""
    return moments.saved if moments.kind == "invstd" else (moments.saved + EPS).rsqrt()


def maps(**shapes: tuple[int, ...]) -> Callable[[int], Inputs]:
    """Normal random tensors of these shapes."""

    def inputs(seed: int) -> Inputs:
        rng = generator(seed)
        return {
            name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()
        }

    return inputs


def normalised(**shapes: tuple[int, ...]) -> Callable[[int], Inputs]:
    """As ``maps``, with the parameters and running statistics of a batch norm over ``x``'s channels."""

    def inputs(seed: int) -> Inputs:
        rng, channels = generator(seed + 1000), shapes["x"][1]

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(channels, dtype=torch.float64).uniform_(low, high, generator=rng)

        return {
            **maps(**shapes)(seed),
            "bn": {"weight": uniform(0.5, 1.5), "bias": uniform(-0.3, 0.3)},
            "stats": {"mean": uniform(-0.3, 0.3), "var": uniform(0.5, 1.5)},
        }

    return inputs


# ---- primitives ----


def conv(
    *, stride: int = 1, padding: int = 0, depthwise: bool = False, relu: bool = False
) -> Callable[..., Outputs]:
    """With a bias and ReLU if the inputs have ``b``."""

    def run(b: Backend[Any], t: Inputs) -> Outputs:
        shape = {"stride": stride, "padding": padding, "groups": t["w"].shape[0] if depthwise else 1}
        if "b" in t:
            y = b.conv2d_bias(t["x"], t["w"], t["b"], relu=relu, **shape)
        else:
            y = b.conv2d(t["x"], t["w"], **shape)
        return {"y": b.to_tensor(y)}

    return run


def norm(*, train: bool, relu: bool) -> Callable[..., Outputs]:
    def run(b: Backend[Any], t: Inputs) -> Outputs:
        x, bn, stats = lift(b, t["x"]), t["bn"], t["stats"]
        affine = bn["weight"], bn["bias"]
        if not train:
            y = b.batch_norm_eval(x, *affine, stats["mean"], stats["var"], eps=EPS, relu=relu)
            return {"y": b.to_tensor(y)}
        y, moments = b.batch_norm_train(x, *affine, eps=EPS, relu=relu)
        return {"y": b.to_tensor(y), "mean": moments.mean, "invstd": invstd_of(moments)}

    return run


def max_pool(b: Backend[Any], t: Inputs) -> Outputs:
    return {"y": b.to_tensor(b.max_pool2d(t["x"], kernel=3, stride=2, padding=1))}


def split(b: Backend[Any], t: Inputs) -> Outputs:
    x1, x2 = b.channel_split(lift(b, t["x"]))
    return {"y1": b.to_tensor(x1), "y2": b.to_tensor(x2)}


def shuffle(b: Backend[Any], t: Inputs) -> Outputs:
    return {"y": b.to_tensor(b.channel_shuffle(lift(b, t["x1"]), lift(b, t["x2"])))}


def shuffle_then_split(b: Backend[Any], t: Inputs) -> Outputs:
    y1, y2 = b.channel_split(b.channel_shuffle(lift(b, t["x1"]), lift(b, t["x2"])))
    return {"y1": b.to_tensor(y1), "y2": b.to_tensor(y2)}


def shuffle_four_times(b: Backend[Any], t: Inputs) -> Outputs:
    x = b.channel_shuffle(lift(b, t["x1"]), lift(b, t["x2"]))
    for _ in range(3):
        x1, x2 = b.channel_split(x)
        x = b.channel_shuffle(x1, b.max_pool2d(x2, kernel=3, stride=1, padding=1))
    return {"y": b.to_tensor(x)}


def shuffle_then_everything(b: Backend[Any], t: Inputs) -> Outputs:
    """One shuffled map, read by every primitive that can read one, as it is or shared."""
    x = b.channel_shuffle(lift(b, t["x1"]), lift(b, t["x2"]))
    whole = b.shared(x)
    channels, bn, stats = t["w_dw"].shape[0], t["bn"], t["stats"]
    y1, y2 = b.channel_split(x)
    bias = {"relu": True, "stride": 1, "padding": 0, "groups": 1}
    normed, moments = b.batch_norm_train(x, bn["weight"], bn["bias"], eps=EPS, relu=True)
    still = b.batch_norm_eval(x, bn["weight"], bn["bias"], stats["mean"], stats["var"], eps=EPS, relu=False)
    read = {
        "y_pw": b.conv2d(x, t["w_pw"], stride=1, padding=0, groups=1),
        "y_pw_shared": b.conv2d(whole, t["w_pw"], stride=1, padding=0, groups=1),
        "y_dw_shared": b.conv2d(whole, t["w_dw"], stride=1, padding=1, groups=channels),
        "y_dw": b.conv2d(x, t["w_dw"], stride=2, padding=1, groups=channels),
        "y_bias": b.conv2d_bias(x, t["w_pw"], t["b"], **bias),
        "y_train": normed,
        "y_eval": still,
        "y_pool": b.max_pool2d(x, kernel=3, stride=2, padding=1),
        "y1": y1,
        "y2": y2,
        "y": x,
    }
    return {
        **{name: b.to_tensor(value) for name, value in read.items()},
        "mean": moments.mean,
        "invstd": invstd_of(moments),
    }


def everything_inputs(seed: int) -> Inputs:
    x = (2, 3, 5, 6)
    own = normalised(x=(1, 6, 1, 1))(seed)
    return {
        **maps(x1=x, x2=x, w_pw=(4, 6, 1, 1), w_dw=(6, 1, 3, 3), b=(4,))(seed),
        "bn": own["bn"],
        "stats": own["stats"],
    }


# ---- units: the network's own text ----


@lru_cache(maxsize=8)
def _variables(half: int) -> Any:
    config = ShuffleNetConfig(stage_repeats=(3, 1, 1), stage_channels=(24, 2 * half, 4, 4, 6), num_classes=2)
    return config, tiny_variables(dtype=torch.float64, config=config)


def unit_inputs(half: int, *path: str, x: tuple[int, ...], rename: str = "unit") -> Callable[[int], Inputs]:
    """``x`` and the variables at ``path`` of a network whose stage 2 has twice ``half`` channels."""

    def inputs(seed: int) -> Inputs:
        params, stats = _variables(half)[1]
        for key in path:
            params, stats = params[key], stats[key]
        return {**maps(x=x)(seed), "params": params, "stats": stats}

    return inputs


def context(b: Backend[Any], train: bool) -> network._Context:
    # The one place that knows how the network passes its backend on.
    return network._Context(b, network._layer(b, ShuffleNetConfig(), train=train))


def _outputs(b: Backend[Any], y: Any, moments: Any) -> Outputs:
    return {"y": b.to_tensor(y), "moments": pytree.tree_leaves(moments)}


def unit(of_network: Callable[..., Any], *, train: bool) -> Callable[..., Outputs]:
    """``_basic_unit``, ``_downsampling_unit`` or ``_stage`` of the network."""

    def run(b: Backend[Any], t: Inputs) -> Outputs:
        return _outputs(b, *of_network(context(b, train), t["params"], t["stats"], lift(b, t["x"])))

    return run


BASIC, DOWN, STAGE = network._basic_unit, network._downsampling_unit, network._stage


def stem(b: Backend[Any], t: Inputs) -> Outputs:
    ctx = context(b, True)
    y, moments = ctx.layer(t["params"], t["stats"], t["x"], kernel=3, stride=2)
    return _outputs(b, b.max_pool2d(y, kernel=3, stride=2, padding=1), moments)


def head(b: Backend[Any], t: Inputs) -> Outputs:
    """conv5 and the global pool, on a shuffled map."""
    ctx = context(b, True)
    x1, x2 = b.channel_split(lift(b, t["x"]))
    y, moments = ctx.layer(t["params"], t["stats"], b.channel_shuffle(x2, x1))
    return {"y": b.to_tensor(y).mean((2, 3)), "moments": pytree.tree_leaves(moments)}


PRIMITIVES = (
    Case("conv 3x3 s2", conv(stride=2, padding=1), maps(x=(2, 3, 9, 7), w=(8, 3, 3, 3))),
    Case("conv 1x1", conv(), maps(x=(2, 10, 5, 7), w=(6, 10, 1, 1))),
    Case("conv 1x1 of one image", conv(), maps(x=(1, 4, 1, 3), w=(6, 4, 1, 1))),
    Case("conv dw", conv(padding=1, depthwise=True), maps(x=(2, 6, 5, 7), w=(6, 1, 3, 3))),
    Case("conv dw s2", conv(stride=2, padding=1, depthwise=True), maps(x=(2, 6, 7, 6), w=(6, 1, 3, 3))),
    Case("conv bias", conv(), maps(x=(2, 10, 5, 7), w=(6, 10, 1, 1), b=(6,))),
    Case(
        "conv dw bias relu",
        conv(padding=1, depthwise=True, relu=True),
        maps(x=(2, 6, 5, 7), w=(6, 1, 3, 3), b=(6,)),
    ),
    Case("norm train", norm(train=True, relu=False), normalised(x=(3, 6, 5, 7))),
    Case("norm train relu", norm(train=True, relu=True), normalised(x=(3, 6, 5, 7))),
    Case("norm eval", norm(train=False, relu=False), normalised(x=(2, 6, 5, 7))),
    Case("norm eval relu", norm(train=False, relu=True), normalised(x=(1, 6, 5, 7))),
    Case("max pool", max_pool, maps(x=(2, 6, 7, 9))),
    Case("split", split, maps(x=(2, 10, 5, 7))),
    Case("split of one pixel", split, maps(x=(1, 2, 1, 1))),
    Case("shuffle", shuffle, maps(x1=(2, 5, 5, 7), x2=(2, 5, 5, 7))),
    Case("shuffle of one pixel", shuffle, maps(x1=(1, 3, 1, 1), x2=(1, 3, 1, 1))),
    Case("shuffle, split", shuffle_then_split, maps(x1=(2, 5, 5, 7), x2=(2, 5, 5, 7))),
    Case("shuffle, split of 2 channels", shuffle_then_split, maps(x1=(1, 1, 3, 1), x2=(1, 1, 3, 1))),
    Case("shuffle x4", shuffle_four_times, maps(x1=(2, 6, 5, 7), x2=(2, 6, 5, 7))),
    Case("shuffle, everything", shuffle_then_everything, everything_inputs),
)

SMALL_UNITS = (
    Case("basic", unit(BASIC, train=True), unit_inputs(6, "stage2", "1", x=(3, 12, 5, 3))),
    Case("basic eval", unit(BASIC, train=False), unit_inputs(6, "stage2", "1", x=(1, 12, 5, 3))),
    Case("down", unit(DOWN, train=True), unit_inputs(6, "stage2", "0", x=(3, 24, 5, 7))),
    Case("down eval", unit(DOWN, train=False), unit_inputs(6, "stage2", "0", x=(1, 24, 7, 5))),
    Case("stage", unit(STAGE, train=True), unit_inputs(6, "stage2", x=(3, 24, 7, 5))),
    Case("stem and pool", stem, unit_inputs(6, "conv1", x=(2, 3, 13, 11))),
    Case("conv5 and pool", head, unit_inputs(6, "conv5", x=(3, 4, 5, 3))),
)

UNITS = tuple(
    case
    for width, half in HALVES.items()
    for case in (
        Case(
            f"basic {width}", unit(BASIC, train=True), unit_inputs(half, "stage2", "1", x=(2, 2 * half, 7, 5))
        ),
        Case(f"down {width}", unit(DOWN, train=True), unit_inputs(half, "stage2", "0", x=(2, 24, 7, 9))),
    )
)

SMALL = (*PRIMITIVES, *SMALL_UNITS)
CASES = (*SMALL, *UNITS)
