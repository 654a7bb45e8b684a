"""Variables from and to a torchvision ``state_dict``.

The table of layers (``model/architecture.py``) holds both names of every tensor, so the two directions
cannot disagree. The original (Ascend ModelZoo) uses torchvision's key names too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables, get_path, set_path
from shufflenet_fn_backends.support.errors import UsageError

# Old Ascend checkpoints registered the index tables of the shuffle as buffers, for example
# `stage2.0.channel_shuffle.fp_index1`.
_SHUFFLE_INDEX: Final = re.compile(r"shuffle\.(fp|bp)_index\d*$", re.IGNORECASE)
_TRACKED: Final = "num_batches_tracked"


def from_torchvision(state_dict: Mapping[str, Tensor], config: ShuffleNetConfig) -> Variables:
    """Return variables with the values of ``state_dict``.

    Dropped: the ``module.`` prefix of ``DistributedDataParallel``, ``num_batches_tracked``, and the
    shuffle-index buffers of old Ascend checkpoints. dtypes are kept; tensors are contiguous copies.

    Raises:
        UsageError: keys are missing or unexpected, or shapes differ; the message lists them.
    """
    given = {
        key.removeprefix("module."): value
        for key, value in state_dict.items()
        if not key.endswith(_TRACKED) and not _SHUFFLE_INDEX.search(key)
    }
    table = list(_table(config))
    _check(given, table)
    variables = Variables({}, {})
    for collection, path, key, _ in table:
        # Not `.contiguous()`: it may return its argument, and the caller's tensor must not be shared.
        tensor = given[key].detach().clone(memory_format=torch.contiguous_format)
        set_path(getattr(variables, collection), path, tensor)
    return variables


def to_torchvision(
    variables: Variables, config: ShuffleNetConfig, *, num_batches_tracked: int = 0
) -> dict[str, Tensor]:
    """Return a ``state_dict`` that ``torchvision.models.shufflenet_v2_*`` loads with ``strict=True``.

    Tensors are contiguous, on the device they are on, and not shared with ``variables``.
    """
    state_dict: dict[str, Tensor] = {}
    for collection, path, key, _ in _table(config):
        tensor = get_path(getattr(variables, collection), path)
        state_dict[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
        if path[-1] == "var":
            tracked = key.replace("running_var", _TRACKED)
            state_dict[tracked] = torch.tensor(num_batches_tracked)
    return state_dict


def _table(
    config: ShuffleNetConfig,
) -> Iterator[tuple[str, tuple[str, ...], str, tuple[int, ...]]]:
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


def _check(
    given: Mapping[str, Tensor],
    table: list[tuple[str, tuple[str, ...], str, tuple[int, ...]]],
) -> None:
    expected = {key: shape for _, _, key, shape in table}
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    shapes = [
        f"{key} is {tuple(given[key].shape)}, should be {shape}"
        for key, shape in expected.items()
        if key in given and tuple(given[key].shape) != shape
    ]
    problems = [
        f"{len(items)} {name}: {_some(items)}"
        for name, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if items
    ]
    if problems:
        raise UsageError(
            "these weights do not fit the architecture. Keys "
            + "; ".join(problems)
            + ". Check the width (x0_5, x1_0, x1_5, x2_0) and the number of classes; megvii's own "
            "checkpoints are of a different network and do not fit."
        )


def _some(items: list[str], limit: int = 4) -> str:
    shown = ", ".join(items[:limit])
    return shown + (f", and {len(items) - limit} more" if len(items) > limit else "")
