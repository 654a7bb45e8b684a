"""Split a train state into the files of a checkpoint, and restore it from them.

The states of torch's random generators are saved too. Training does not use them, because order and
augmentation depend only on (seed, epoch, sample), but a user's own loss, optimizer or primitive may. All
ranks start with equal generators and draw the same numbers, so only rank 0's states are saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn.checkpoint.format import EMA, GENERATORS, STATE, WEIGHTS
from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import tree_paths, tree_unflatten
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.support.errors import UsageError

Tensors = Mapping[str, Tensor]
_CPU: Final = "cpu"


def tensors_of(config: ShuffleNetConfig, state: TrainState, generators: Tensors) -> dict[str, Tensors]:
    """Return the tensors of ``state`` by file and name. ``state`` must be in canonical channel order."""
    step = int(state.step)
    files: dict[str, Tensors] = {
        WEIGHTS: to_torchvision(state.variables, config, num_batches_tracked=step),
        STATE: {path: leaf.detach() for path, leaf in tree_paths(_rest(state))},
    }
    if generators:
        files[GENERATORS] = generators
    if isinstance(state.ema, Variables):
        files[EMA] = to_torchvision(state.ema, config, num_batches_tracked=step)
    return files


def state_from(
    files: Mapping[str, Tensors], config: ShuffleNetConfig, like: TrainState, checkpoint: Path
) -> TrainState:
    """Return the state in ``files``, with the structure and on the device of ``like``.

    Raises:
        UsageError: their ``checkpoint`` was written with other settings (for example without EMA).
    """
    device = like.step.device
    stored = files[STATE]
    rest = _rest(like)
    expected = dict(tree_paths(rest))
    wrong = sorted(expected.keys() ^ stored.keys()) or [
        path
        for path, leaf in expected.items()
        if (stored[path].shape, stored[path].dtype) != (leaf.shape, leaf.dtype)
    ]
    if wrong:
        raise UsageError(
            f"the checkpoint {checkpoint} was written with other settings: {', '.join(wrong[:4])} "
            "do not match. The number of classes, and whether there are momentum, clipping and a loss scale, "
            "must be as in the run it is from."
        )
    if isinstance(like.ema, Variables) and EMA not in files:
        raise UsageError(
            f"the checkpoint {checkpoint} was written with other settings: it holds no averaged weights "
            f"({EMA}). Leave EMA off, as in the run it is from."
        )
    restored = tree_unflatten(rest, [stored[path].to(device) for path in expected])
    variables = _variables_from(files[WEIGHTS], config, like.variables)
    ema = like.ema
    if isinstance(like.ema, Variables):
        ema = _variables_from(files[EMA], config, like.ema)
    return TrainState(
        step=restored["step"],
        params=variables.params,
        batch_stats=variables.batch_stats,
        opt_state=restored["opt_state"],
        loss_scale=restored["loss_scale"],
        ema=ema,
    )


def contiguous_on_cpu(tensors: Tensors) -> dict[str, Tensor]:
    """Return contiguous copies: safetensors refuses other layouts and shared storage."""
    return {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _rest(state: TrainState) -> dict[str, Any]:
    """What ``weights.safetensors`` and ``ema.safetensors`` do not hold."""
    return {"step": state.step, "opt_state": state.opt_state, "loss_scale": state.loss_scale}


def _variables_from(tensors: Tensors, config: ShuffleNetConfig, like: Variables) -> Variables:
    loaded = from_torchvision(tensors, config)
    # By path and not by position: two trees may have the same keys in another order.
    new = dict(tree_paths(loaded))
    matched = [new[path].to(device=old.device, dtype=old.dtype) for path, old in tree_paths(like)]
    return tree_unflatten(like, matched)


def generator_states(runtime: Runtime) -> dict[str, Tensor]:
    """Return the states of the default generators of the CPU and the current device, by device."""
    return {_CPU: torch.get_rng_state(), runtime.name: runtime.rng_state()}


def restore_generators(states: Mapping[str, Tensor], runtime: Runtime) -> None:
    """Restore what ``generator_states`` returned, except for devices of another kind."""
    if _CPU in states:
        torch.set_rng_state(states[_CPU])
    if runtime.name in states:
        runtime.set_rng_state(states[runtime.name])
