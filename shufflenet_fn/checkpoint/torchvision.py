"""Convert variables from and to a torchvision ``state_dict``, or a ``torch.nn.Module`` that has one.

The table of layers (``model/architecture.py``) holds both names of every tensor, so the two directions
cannot disagree. The original (Ascend ModelZoo) uses torchvision's key names too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from shufflenet_fn.data.paths import printable
from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import ARCHITECTURES, PREFIX, ShuffleNetConfig, get_config
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables, get_path, set_path
from shufflenet_fn.tree import tree_leaves, tree_map
from shufflenet_fn_backends.support.errors import UsageError

# Old Ascend checkpoints registered the index tables of the shuffle as buffers, for example
# `stage2.0.channel_shuffle.fp_index1`.
_SHUFFLE_INDEX: Final = re.compile(r"shuffle\.(fp|bp)_index\d*$", re.IGNORECASE)
_TRACKED: Final = "num_batches_tracked"
_AVERAGED: Final = "n_averaged"
"""The counter that ``torch.optim.swa_utils.AveragedModel`` stores beside its module."""

HEAD: Final = ("fc.weight", "fc.bias")
_WRAPPERS: Final = re.compile(r"(?<=\.)_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
_HEAD_NAMES: Final = re.compile(r"(fc|classifier|head|heads|linear|last_linear|output|logits)\.")
_FIRST: Final = "conv1.0.weight"


def from_torchvision(state_dict: Mapping[str, Tensor], config: ShuffleNetConfig) -> Variables:
    """Return variables with the values of ``state_dict``, in any form of ``canonical_keys``.

    dtypes are kept; tensors are contiguous copies.

    Raises:
        UsageError: keys are missing or unexpected, or shapes differ; the message lists them.
    """
    given = canonical_keys(state_dict)
    _check(given, config)
    # Not `.contiguous()`: it may return its argument, and the caller's tensor must not be shared.
    copies = {key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in given.items()}
    return variables_of(copies, config)


def variables_of(tensors: Mapping[str, Tensor], config: ShuffleNetConfig) -> Variables:
    """Return variables of the very ``tensors``, which have torchvision's keys."""
    variables = Variables({}, {})
    for collection, path, key, _ in _table(config):
        set_path(getattr(variables, collection), path, tensors[key])
    return variables


def prefixes_of(state_dict: Mapping[str, object]) -> list[str]:
    """Return what precedes torchvision's keys, such as ``module._orig_mod.``: one for each network."""
    return [key.removesuffix(_FIRST) for key in state_dict if f".{key}".endswith(f".{_FIRST}")]


def is_head(key: str) -> bool:
    """Return whether a key without prefix names a part of the classifier, under any usual name."""
    return _HEAD_NAMES.match(key) is not None


def canonical_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state_dict`` under torchvision's keys.

    Dropped: a prefix such as ``module.`` or ``model._orig_mod.``, wrappers of single layers, counters of
    batches and averages, and the shuffle-index buffers of old Ascend checkpoints. A classifier of one layer
    is ``fc``, whatever its name.
    """
    prefixes = prefixes_of(state_dict)
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    given = {
        _WRAPPERS.sub("", key.removeprefix(prefix)): value
        for key, value in state_dict.items()
        if not key.endswith((_TRACKED, _AVERAGED)) and not _SHUFFLE_INDEX.search(key)
    }
    head = sorted(filter(is_head, given), reverse=True)
    stem = head[0].removesuffix(".weight") if head else ""
    if head == [f"{stem}.weight", f"{stem}.bias"]:
        given |= {new: given.pop(old) for old, new in zip(head, HEAD, strict=True)}
    return given


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the names of tensors that hold NaN or infinite values, and how many; ``None`` if none does."""
    found = [
        f"{key} ({count:,} of {tensor.numel():,} values)"
        for key, tensor in tensors.items()
        if (count := tensor.numel() - int(tensor.isfinite().sum()))
    ]
    return _some(found) if found else None


def to_torchvision(
    variables: Variables, config: ShuffleNetConfig, *, num_batches_tracked: int = 0
) -> dict[str, Tensor]:
    """Return a ``state_dict`` that ``torchvision.models.shufflenet_v2_*`` loads with ``strict=True``.

    Tensors are contiguous, stay on their device, and share no memory with ``variables``.
    """
    state_dict: dict[str, Tensor] = {}
    for collection, path, key, _ in _table(config):
        tensor = get_path(getattr(variables, collection), path)
        state_dict[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
        if path[-1] == "var":
            tracked = key.replace("running_var", _TRACKED)
            state_dict[tracked] = torch.tensor(num_batches_tracked)
    return state_dict


def _table(config: ShuffleNetConfig) -> Iterator[tuple[str, tuple[str, ...], str, tuple[int, ...]]]:
    """Collection, path in it, torchvision key, shape: of every tensor."""
    for layer in conv_layers(config):
        conv, bn = layer.torchvision
        channels = (layer.out_channels,)
        yield "params", (*layer.path, "conv", "weight"), f"{conv}.weight", layer.weight_shape
        yield "params", (*layer.path, "bn", "weight"), f"{bn}.weight", channels
        yield "params", (*layer.path, "bn", "bias"), f"{bn}.bias", channels
        yield "batch_stats", (*layer.path, "bn", "mean"), f"{bn}.running_mean", channels
        yield "batch_stats", (*layer.path, "bn", "var"), f"{bn}.running_var", channels
    head = (config.num_classes, config.stage_channels[-1])
    yield "params", ("fc", "weight"), "fc.weight", head
    yield "params", ("fc", "bias"), "fc.bias", head[:1]


def _check(given: Mapping[str, Tensor], config: ShuffleNetConfig) -> None:
    expected = {key: shape for _, _, key, shape in _table(config)}
    present = {key: given[key] for key in expected if key in given}
    found = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} is {tuple(tensor.shape)}, should be {expected[key]}"
            for key, tensor in present.items()
            if tuple(tensor.shape) != expected[key]
        ],
        "not of floating point": [
            f"{key} is {str(tensor.dtype).removeprefix('torch.')}"
            for key, tensor in present.items()
            if not tensor.is_floating_point()
        ],
    }
    problems = "; ".join(f"{len(items)} {name}: {_some(items)}" for name, items in found.items() if items)
    if problems:
        raise UsageError(
            f"these weights do not fit the architecture. Keys {problems}. {_advice(given, config)}"
        )


def _advice(given: Mapping[str, Tensor], config: ShuffleNetConfig) -> str:
    for name in ARCHITECTURES:
        other = get_config(name)
        if other.stage_channels != config.stage_channels and all(
            key in given and tuple(given[key].shape) == shape
            for _, _, key, shape in _table(other)
            if key not in HEAD
        ):
            return f"They are of {name}: choose it (--arch {name.removeprefix(PREFIX)})."
    if not any(key in given for _, _, key, _ in _table(config) if key not in HEAD):
        return (
            "They are of another network than torchvision's ShuffleNetV2, or under other names; megvii's "
            "own checkpoints, too, are of a different network and do not fit."
        )
    return "Check the width (x0_5, x1_0, x1_5, x2_0) and the number of classes."


def _some(items: list[str], limit: int = 4) -> str:
    shown = printable(", ".join(item[:120] for item in items[:limit]))
    return shown + (f", and {len(items) - limit} more" if len(items) > limit else "")


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
