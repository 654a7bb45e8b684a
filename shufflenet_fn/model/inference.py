"""Inference: batch norms are folded into convolutions, and weights are permuted when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import Layer, body, check_dtype, check_images
from shufflenet_fn.model.variables import Params, Variables, get_path, set_path
from shufflenet_fn.training.precision import Policy
from shufflenet_fn.tree import register_node, tree_map
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE


@dataclass(frozen=True)
class InferenceParams:
    """Parameters of the network without batch norms.

    ``params``: ``{"weight", "bias"}`` of every convolution, at the path where ``Variables.params`` has
    ``{"conv", "bn"}``, and of ``fc``. ``permuted``: whether they are in the permuted channel order of
    ``backend.permuted``, for the backend that they were folded for. A pytree node with ``permuted`` as its
    static context.
    """

    params: Params
    permuted: bool


register_node(
    InferenceParams,
    lambda folded: ([folded.params], folded.permuted),
    lambda children, permuted: InferenceParams(next(iter(children)), permuted),
    lambda folded: ("params",),
)


def fold(
    config: ShuffleNetConfig, variables: Variables, *, backend: Backend[Any] = REFERENCE
) -> InferenceParams:
    """Fold each batch norm into its convolution.

    With scale = weight / sqrt(var + eps) of the norm, the convolution's weight becomes weight * scale and
    its bias becomes bias - mean * scale. Both are computed in float64 and rounded once.

    Args:
        config: the architecture.
        variables: in the channel order in which ``apply`` takes them with this ``backend``.
        backend: the backend that ``infer`` will be called with.

    Returns:
        Parameters in the dtype of ``variables.params``.
    """
    variables, ordered = in_order_of(config, variables, backend)
    params: Params = {}
    for layer in conv_layers(config):
        leaf, stats = (get_path(tree, layer.path) for tree in variables)
        weight, bn = leaf["conv"]["weight"], leaf["bn"]
        scale = _float64(bn["weight"]) * (_float64(stats["bn"]["var"]) + config.bn_eps).rsqrt()
        folded = {
            "weight": (_float64(weight) * scale[:, None, None, None]).to(weight),
            "bias": (_float64(bn["bias"]) - _float64(stats["bn"]["mean"]) * scale).to(weight),
        }
        set_path(params, layer.path, folded)
    params["fc"] = variables.params["fc"]
    return InferenceParams(params, permuted=ordered is not backend)


def infer(
    config: ShuffleNetConfig,
    params: InferenceParams,
    x: Tensor,
    *,
    backend: Backend[Any] = REFERENCE,
    policy: Policy | None = None,
    pooled: bool = False,
) -> Tensor:
    """Return the logits (N, num_classes), equal to those of ``apply`` in evaluation up to rounding.

    Args:
        config: the architecture.
        params: from ``fold``.
        x: images, normalised, (N, 3, H, W).
        backend: the backend that ``params`` were folded for.
        policy: dtypes to compute in; ``None`` computes in the dtype of the arguments.
        pooled: return the input of the classifier, (N, C), instead of the logits.

    Raises:
        ValueError: ``x`` is not (N, 3, H, W) or not floating point, or ``params`` were folded for a backend
            with another channel order.
    """
    _check(params, x, backend, policy)
    twin = backend.permuted if params.permuted else backend
    assert twin is not None
    policy = policy or _as_they_are(x)
    tree, x = policy.cast_params(params.params), policy.cast_input(x)
    with policy.autocast(x.device.type):
        y = folded_body(tree, twin, x)
        found = twin.to_tensor(y).mean((2, 3))
        if not pooled:
            found = nnf.linear(found, tree["fc"]["weight"], tree["fc"]["bias"])
    return policy.cast_output(found)


def make_predictor(
    config: ShuffleNetConfig,
    variables: Variables,
    *,
    backend: Backend[Any] = REFERENCE,
    policy: Policy | None = None,
    pooled: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Return a function from images to what ``infer`` returns, with all work on the weights done in advance.

    The function is not differentiable.
    """
    params = fold(config, variables, backend=backend)
    policy = policy or _as_they_are(params.params["fc"]["weight"])
    # Copy, so that later in-place changes of the variables have no effect.
    tree = tree_map(torch.clone, policy.cast_params(params.params))
    params = InferenceParams(tree, params.permuted)
    return torch.no_grad()(partial(infer, config, params, backend=backend, policy=policy, pooled=pooled))


def _float64(x: Tensor) -> Tensor:
    # NPUs do not compute in float64. Folding runs once, so the host can do it.
    return x.cpu().double() if x.device.type == "npu" else x.double()


def folded_body(tree: Params, backend: Backend[Any], x: Any) -> Any:
    y, _ = body(backend, _folded_layer(backend), tree, tree, x)
    return y


def _folded_layer(backend: Backend[Any]) -> Layer:
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
        weight = params["weight"]
        y = backend.conv2d_bias(
            x,
            weight,
            params["bias"],
            stride=stride,
            padding=kernel // 2,
            groups=weight.shape[0] if depthwise else 1,
            relu=relu,
        )
        return y, {}

    return layer


def _check(params: InferenceParams, x: Tensor, backend: Backend[Any], policy: Policy | None) -> None:
    check_images(x)
    if policy is not None:
        check_dtype(x, params.params["fc"]["weight"].dtype, policy)
    if params.permuted != (backend.permuted is not None):
        raise ValueError(
            f"the parameters were folded for another backend than {backend.name}, with another channel "
            "order; fold them again with backend= this one"
        )


def _as_they_are(x: Tensor) -> Policy:
    """Return a policy that casts nothing."""
    return Policy(x.dtype, x.dtype, x.dtype, x.dtype)
