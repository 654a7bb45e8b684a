"""The network as a ``torch.nn.Module``, for code that needs one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from shufflenet_fn.checkpoint.torchvision import (
    canonical_keys,
    from_torchvision,
    to_torchvision,
    variables_of,
)
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.tree import tree_leaves, tree_map
from shufflenet_fn_backends.support.errors import UsageError


class ShuffleNetV2(nn.Module):
    """A module with the ``state_dict`` of torchvision's, whose ``forward`` is ``apply``.

    The submodules only hold tensors. They are not called, so hooks on them do not run.
    """

    def __init__(self, config: ShuffleNetConfig, variables: Variables) -> None:
        super().__init__()
        self.config = config
        for key, tensor in to_torchvision(variables, config).items():
            *path, name = key.split(".")
            holder: nn.Module = self
            for part in path:
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder.get_submodule(part)
            if name in ("weight", "bias"):
                holder.register_parameter(name, nn.Parameter(tensor))
            else:
                holder.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``, as ``apply``. In training, update the buffers in place."""
        buffers = dict(self.named_buffers())
        # Read at each call: `functional_call` and wrappers exchange them.
        variables = variables_of({**dict(self.named_parameters()), **buffers}, self.config)
        # `half()` casts the statistics too, which `apply` takes in float32.
        stats = tree_map(lambda t: t.to(torch.promote_types(t.dtype, torch.float32)), variables.batch_stats)
        logits, batch_stats = apply(
            self.config, variables._replace(batch_stats=stats), x, train=self.training
        )
        if self.training:
            with torch.no_grad():
                for old, new in zip(
                    tree_leaves(variables.batch_stats), tree_leaves(batch_stats), strict=True
                ):
                    old.copy_(new)
                for key, buffer in buffers.items():
                    if key.endswith("num_batches_tracked"):
                        buffer.add_(1)
        return logits


def to_module(config: ShuffleNetConfig, variables: Variables) -> ShuffleNetV2:
    """Return a ``torch.nn.Module`` with a copy of ``variables``, in training mode as every new module.

    Its ``state_dict`` has torchvision's keys in torchvision's order, so each loads the other's with
    ``strict=True``. Optimizers, ``deepcopy``, pickle, ``DistributedDataParallel`` and ``torch.compile`` take
    it like any module.

    Args:
        config: the architecture that ``variables`` belong to.
        variables: in canonical channel order.
    """
    return ShuffleNetV2(config, variables)


def from_module(module: nn.Module) -> tuple[ShuffleNetConfig, Variables]:
    """Return the config and a copy of the variables of a module: of ``to_module``, or torchvision's.

    It may be wrapped, such as in ``DistributedDataParallel``.

    Raises:
        UsageError: it is another network, or its batch norms differ in momentum or epsilon.
    """
    for part in module.modules():
        if isinstance(part, ShuffleNetV2):
            tensors = part.state_dict()
            classes = len(tensors["fc.weight"]) if "fc.weight" in tensors else part.config.num_classes
            config = replace(part.config, num_classes=classes)
            return config, from_torchvision(tensors, config)
    tensors = canonical_keys(module.state_dict())
    stages = ("stage2", "stage3", "stage4")
    keys = (
        "conv1.0.weight",
        *(f"{stage}.0.branch2.5.weight" for stage in stages),
        "conv5.0.weight",
        "fc.weight",
    )
    missing = [key for key in keys if key not in tensors]
    if missing:
        raise UsageError(
            f"{type(module).__name__} is no ShuffleNetV2 of to_module or torchvision: its state_dict has no "
            f"{', '.join(missing)}."
        )
    norms = {(n.momentum, n.eps) for n in module.modules() if isinstance(n, nn.modules.batchnorm._BatchNorm)}
    (momentum, eps), *others = norms or {(None, 0.0)}
    if momentum is None or others:
        raise UsageError(
            f"the batch norms of {type(module).__name__} have no momentum, or differ in momentum or eps. A "
            "config has one momentum and one eps for all."
        )
    stem, second, third, fourth, last, classes = (len(tensors[key]) for key in keys)
    repeats = [len({key.split(".")[1] for key in tensors if key.startswith(f"{s}.")}) for s in stages]
    config = ShuffleNetConfig(
        stage_repeats=(repeats[0], repeats[1], repeats[2]),
        stage_channels=(stem, 2 * second, 2 * third, 2 * fourth, last),
        num_classes=classes,
        bn_momentum=momentum,
        bn_eps=eps,
    )
    return config, from_torchvision(tensors, config)
