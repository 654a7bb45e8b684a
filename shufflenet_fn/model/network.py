"""ShuffleNetV2 as pure functions, written as in the paper over a backend's primitives.

N images, C channels, H×W pixels; activations NCHW, weights OIHW.
Reference: Ma, Zhang, Zheng, Sun, "ShuffleNet V2", 2018, arXiv:1807.11164, figure 3 (c, d) and table 5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn.model.architecture import REDUCTION, fewest_values
from shufflenet_fn.model.config import FEATURES, PARTS, ShuffleNetConfig
from shufflenet_fn.model.running_stats import MomentsTree, update_running_stats
from shufflenet_fn.model.variables import BatchStats, Variables
from shufflenet_fn.training.precision import Policy
from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE


class Layer(Protocol):
    """A convolution and its batch norm: in training, in evaluation, or folded into one."""

    def __call__(
        self,
        params: dict[str, Any],
        stats: dict[str, Any],
        x: Any,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        relu: bool = True,
    ) -> tuple[Any, Any]:
        """Return the output and, in training, the batch's ``Moments`` (otherwise an empty dict)."""


class _Context(NamedTuple):
    backend: Backend[Any]
    layer: Layer


def apply(
    config: ShuffleNetConfig,
    variables: Variables,
    x: Tensor,
    *,
    train: bool = False,
    backend: Backend[Any] = REFERENCE,
    policy: Policy | None = None,
) -> tuple[Tensor, BatchStats]:
    """Return the logits and the updated batch statistics. No argument is modified.

    Args:
        config: the architecture that ``variables`` belong to.
        variables: from ``init`` or ``from_torchvision``; in permuted channel order
            (``channel_order.to_permuted``) if ``backend`` is the ``permuted`` variant of a backend.
        x: images, normalised, (N, 3, H, W), floating point. H and W may be any size from 1; the paper uses
            224.
        train: if true, normalise with the batch's own statistics and return updated running statistics;
            otherwise normalise with the running statistics and return them unchanged.
        backend: the primitives to compute with.
        policy: dtypes to compute in (``get_policy``); ``None`` computes in the dtype of the arguments.

    Returns:
        ``logits`` (N, num_classes) and ``batch_stats``, both in training and in evaluation.

    Raises:
        ValueError: ``x`` is not (N, 3, H, W), not floating point, without a policy not of the parameters'
            dtype, or leaves a batch norm one value per channel in training.

    Example:
        >>> logits, batch_stats = apply(config, variables, torch.zeros(2, 3, 64, 64), train=True)
        >>> logits.shape
        torch.Size([2, 10])
    """
    logits, moments = forward(config, variables, x, train=train, backend=backend, policy=policy)
    if not train:
        return logits, variables.batch_stats
    return logits, update_running_stats(config, variables.batch_stats, moments)


def features(
    config: ShuffleNetConfig,
    variables: Variables,
    x: Tensor,
    *,
    at: str | Sequence[str] = ("pooled",),
    backend: Backend[Any] = REFERENCE,
    policy: Policy | None = None,
) -> dict[str, Tensor]:
    """Return feature maps of the network in evaluation, by name, in the order of ``at``.

    Pure, and differentiable under every ``torch.func`` transform, as ``apply``.

    Args:
        config: the architecture that ``variables`` belong to.
        variables: as in ``apply``.
        x: images, normalised, (N, 3, H, W), floating point.
        at: one or more of ``model.config.FEATURES``. ``pooled`` is the input of the classifier, (N, C); the
            others are (N, C, H, W), in torchvision's channel order, ``conv1`` and ``conv5`` after their ReLU.
        backend: the primitives to compute with.
        policy: dtypes to compute in; ``None`` computes in the dtype of the arguments.

    Raises:
        ValueError: a name is unknown, or ``x`` is refused as by ``apply``.

    Example:
        >>> features(config, variables, torch.zeros(2, 3, 64, 64), at=("stage2",))["stage2"].shape
        torch.Size([2, 48, 8, 8])
    """
    at = (at,) if isinstance(at, str) else at
    for name in at:
        if name not in FEATURES:
            hint = suggestion(str(name), FEATURES)
            raise ValueError(f"unknown feature {name!r}{hint}: choose among {', '.join(FEATURES)}")
    check_images(x)
    check_dtype(x, variables.params["fc"]["weight"].dtype, policy)
    policy = policy or Policy(x.dtype, x.dtype, x.dtype, x.dtype)
    layer = _layer(backend, config, train=False)
    maps: dict[str, Any] = {}
    with policy.autocast(x.device.type):
        params = policy.cast_params(variables.params)
        y, _ = body(backend, layer, params, variables.batch_stats, policy.cast_input(x), maps)
        found = {name: backend.to_tensor(maps[name]) for name in at if name != "pooled"}
        if "pooled" in at:
            found["pooled"] = backend.to_tensor(y).mean((2, 3))
    return {name: policy.cast_output(found[name]) for name in at}


def forward(
    config: ShuffleNetConfig,
    variables: Variables,
    x: Tensor,
    *,
    train: bool,
    backend: Backend[Any],
    policy: Policy | None,
    update_stats: bool = False,
    frozen: Collection[str] = (),
) -> tuple[Tensor, MomentsTree]:
    """Return the logits and the batch's moments, without updating the running statistics.

    The training step uses it to update the statistics of all layers at once, outside ``grad``. With
    ``update_stats``, the kernels write the new statistics into ``variables.batch_stats``, which the caller
    must own, and no moments are returned. This requires ``backend.batch_norm_update_``. Parts of the network
    that are ``frozen`` normalise as in evaluation and have no moments.
    """
    check_images(x)
    check_dtype(x, variables.params["fc"]["weight"].dtype, policy)
    uses_batch = train and not set(PARTS.values()) <= set(frozen)
    if uses_batch and fewest_values(x.shape[0], *x.shape[2:]) <= 1:
        raise ValueError(
            f"x of shape {tuple(x.shape)} leaves no more than 1 value per channel to the last batch norms, "
            f"which need more in training: give more images, or ones larger than {REDUCTION} pixels"
        )
    layer = _layer(backend, config, train=train, update_stats=update_stats)
    others = dict.fromkeys(frozen, _layer(backend, config, train=False))
    if policy is None:
        return _forward(variables, x, layer, others, backend)
    params = policy.cast_params(variables.params)
    with policy.autocast(x.device.type):
        cast = Variables(params, variables.batch_stats)
        logits, moments = _forward(cast, policy.cast_input(x), layer, others, backend)
    return policy.cast_output(logits), moments


def check_images(x: Tensor) -> None:
    """Check what transforms and compilers know of ``x`` too.

    Raises:
        ValueError: it is no floating-point (N, 3, H, W).
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a torch.Tensor of images (N, 3, H, W), not {type(x).__name__}")
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
        raise ValueError(f"x must be images of shape (N, 3, H, W), not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(
            f"x must be normalised images of a floating-point dtype, not {x.dtype}: "
            "shufflenet_fn.data.device_ops.normalize makes them from uint8 ones"
        )


def check_dtype(x: Tensor, own: torch.dtype, policy: Policy | None) -> None:
    """Check that ``x`` is of the parameters' dtype ``own``, or will be.

    Raises:
        ValueError: neither ``policy`` nor autocast casts it.
    """
    if x.dtype == own or not (policy is None or policy.use_autocast):
        return
    autocast = policy is not None or torch.is_autocast_enabled(x.device.type)
    if autocast and torch.float64 not in (x.dtype, own):  # which autocast leaves as it is
        return
    raise ValueError(
        f"x is {x.dtype} and the parameters are {own}: pass x.to({own}), or a policy that casts both, such "
        "as policy=get_policy('fp32')"
    )


def _forward(
    variables: Variables, x: Tensor, layer: Layer, others: Mapping[str, Layer], backend: Backend[Any]
) -> tuple[Tensor, MomentsTree]:
    params, stats = variables
    y, moments = body(backend, layer, params, stats, x, others=others)
    moments = {name: part for name, part in moments.items() if name not in others}
    features = backend.to_tensor(y).mean((2, 3))
    return nnf.linear(features, params["fc"]["weight"], params["fc"]["bias"]), moments


def body(
    backend: Backend[Any],
    layer: Layer,
    params: dict[str, Any],
    stats: dict[str, Any],
    x: Any,
    maps: dict[str, Any] | None = None,
    others: Mapping[str, Layer] = MappingProxyType({}),
) -> tuple[Any, MomentsTree]:
    """Return the last feature map, before the global mean, and the batch's moments.

    ``maps`` receives all feature maps by name: ``conv1``, ``maxpool``, ``stage2`` to ``stage4``, ``conv5``.
    ``others``: layers in place of ``layer``, by the part of the network that they compute.
    """
    maps = {} if maps is None else maps
    moments: MomentsTree = {}
    y, moments["conv1"] = others.get("conv1", layer)(params["conv1"], stats["conv1"], x, kernel=3, stride=2)
    maps["conv1"] = y
    maps["maxpool"] = y = backend.max_pool2d(y, kernel=3, stride=2, padding=1)
    for stage in ("stage2", "stage3", "stage4"):
        ctx = _Context(backend, others.get(stage, layer))
        y, moments[stage] = _stage(ctx, params[stage], stats[stage], y)
        maps[stage] = y
    y, moments["conv5"] = others.get("conv5", layer)(params["conv5"], stats["conv5"], y)
    maps["conv5"] = y
    return y, moments


def _stage(ctx: _Context, params: dict[str, Any], stats: dict[str, Any], x: Any) -> tuple[Any, MomentsTree]:
    moments: MomentsTree = {}
    x, moments["0"] = _downsampling_unit(ctx, params["0"], stats["0"], x)
    for unit in range(1, len(params)):
        key = str(unit)
        x, moments[key] = _basic_unit(ctx, params[key], stats[key], x)
    return x, moments


def _basic_unit(
    ctx: _Context, params: dict[str, Any], stats: dict[str, Any], x: Any
) -> tuple[Any, MomentsTree]:
    """Figure 3 (c): half of the channels pass unchanged, the other half goes through the branch."""
    x1, x2 = ctx.backend.channel_split(x)
    y, moments = _branch2(ctx, params["branch2"], stats["branch2"], x2, stride=1)
    return ctx.backend.channel_shuffle(x1, y), {"branch2": moments}


def _downsampling_unit(
    ctx: _Context, params: dict[str, Any], stats: dict[str, Any], x: Any
) -> tuple[Any, MomentsTree]:
    """Figure 3 (d): both branches take all channels and halve the resolution."""
    x = ctx.backend.shared(x)
    p, s = params["branch1"], stats["branch1"]
    y1, dw = ctx.layer(p["dw"], s["dw"], x, kernel=3, stride=2, depthwise=True, relu=False)
    y1, pw = ctx.layer(p["pw"], s["pw"], y1)
    y2, moments = _branch2(ctx, params["branch2"], stats["branch2"], x, stride=2)
    return ctx.backend.channel_shuffle(y1, y2), {"branch1": {"dw": dw, "pw": pw}, "branch2": moments}


def _branch2(
    ctx: _Context, params: dict[str, Any], stats: dict[str, Any], x: Any, *, stride: int
) -> tuple[Any, MomentsTree]:
    x, pw1 = ctx.layer(params["pw1"], stats["pw1"], x)
    x, dw = ctx.layer(params["dw"], stats["dw"], x, kernel=3, stride=stride, depthwise=True, relu=False)
    x, pw2 = ctx.layer(params["pw2"], stats["pw2"], x)
    return x, {"pw1": pw1, "dw": dw, "pw2": pw2}


def _layer(
    backend: Backend[Any], config: ShuffleNetConfig, *, train: bool, update_stats: bool = False
) -> Layer:
    eps, update_ = config.bn_eps, backend.batch_norm_update_
    if update_stats and update_ is None:
        raise ValueError(
            f"backend {backend.name} cannot update running statistics in its kernels in this channel order"
        )

    def layer(
        params: dict[str, Any],
        stats: dict[str, Any],
        x: Any,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        relu: bool = True,
    ) -> tuple[Any, Any]:
        weight, bn = params["conv"]["weight"], params["bn"]
        groups = weight.shape[0] if depthwise else 1
        y = backend.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
        if train and not update_stats:
            return backend.batch_norm_train(y, bn["weight"], bn["bias"], eps=eps, relu=relu)
        operands = (y, bn["weight"], bn["bias"], stats["bn"]["mean"], stats["bn"]["var"])
        if update_stats and update_ is not None:
            return update_(*operands, momentum=config.bn_momentum, eps=eps, relu=relu), {}
        return backend.batch_norm_eval(*operands, eps=eps, relu=relu), {}

    return layer
