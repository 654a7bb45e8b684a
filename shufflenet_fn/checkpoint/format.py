"""The on-disk format of a checkpoint: names, version, and the manifest with the hashes of all files.

A checkpoint is a folder ``step-00001234/``:

* ``weights.safetensors``: parameters and running statistics under torchvision's key names, so that
  ``torchvision.models.shufflenet_v2_*`` loads it with ``strict=True``;
* ``ema.safetensors``: the averaged weights in the same form, if the run keeps them;
* ``state.safetensors``: optimizer state, loss scale and step, under dotted paths;
* ``generators.safetensors``: states of torch's random generators by device. Training does not use them,
  because order and augmentation depend only on (seed, epoch, sample), but a user's own loss, optimizer or
  primitive may. All ranks draw the same numbers, so only rank 0's states are saved;
* ``manifest.json``: settings and progress, size and SHA-256 of every other file, and its own SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.io import parse_json
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import tree_paths, tree_unflatten
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.support.errors import UsageError, UserError

Tensors = Mapping[str, Tensor]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
EMA: Final = "ema.safetensors"
STATE: Final = "state.safetensors"
GENERATORS: Final = "generators.safetensors"
FILES: Final = (WEIGHTS, EMA, STATE, GENERATORS)
"""Every file that a checkpoint may contain besides its manifest. No other file is opened."""

REPLACED: Final = ".replaced"
"""Suffix of a checkpoint while another one of the same step replaces it. It is still a valid checkpoint."""

MAX_MANIFEST_BYTES: Final = 16 << 20

OWN_HASH: Final = "sha256_of_this_file_with_zeros_here"
_ZEROS: Final = "0" * 64
_NAME: Final = re.compile(rf"step-(\d{{8,18}})({re.escape(REPLACED)})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class DamagedCheckpoint(UserError):
    """The checkpoint differs from what was written, or was not written by shufflenet-fn."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(f"the checkpoint {checkpoint} is damaged: {reason}.")
        self.reason = reason


class NewerCheckpoint(UserError):
    """The checkpoint has a format that this version does not know."""

    def __init__(self, checkpoint: Path, version: int) -> None:
        super().__init__(
            f"the checkpoint {checkpoint} has format {version}, and this version of shufflenet-fn reads "
            f"format {FORMAT}: a newer one wrote it. Upgrade shufflenet-fn, or take an older checkpoint."
        )
        self.reason = f"of the newer format {version}"


class StoredFile(NamedTuple):
    """Size and hash of a file, as stored in the manifest."""

    sha256: str
    bytes: int


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint; ``None`` for other names."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def epochs_done(manifest: Mapping[str, Any]) -> float | None:
    """Return the epochs that a run had done, with the share of one; ``None`` of what no run has written.

    The number of updates does not tell: an epoch may have had another number of them before a resume.
    """
    match manifest:
        case {"step": 0}:
            return 0.0
        case {"epoch": int(epoch), "unfinished": None} if 0 <= epoch < 10**9:
            return epoch + 1.0
        case {"epoch": int(epoch), "unfinished": {"steps": int(steps)}, "steps_per_epoch": int(length)} if (
            0 <= epoch < 10**9 and 0 <= steps <= length != 0
        ):
            return epoch + steps / length
        case {"step": int(step), "steps_per_epoch": int(length)} if length > 0:
            return step / length
    return None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def encode_manifest(about: Mapping[str, Any], step: int, files: Mapping[str, StoredFile]) -> bytes:
    """Return ``manifest.json``: ``about``, with format, step, files and its own hash.

    Raises:
        TypeError, ValueError: ``about`` is not JSON.
    """
    content = {
        OWN_HASH: _ZEROS,
        **about,
        "format": FORMAT,
        "step": step,
        "files": {name: file._asdict() for name, file in files.items()},
    }
    blank = json.dumps(content, indent=2, allow_nan=False)
    return blank.replace(_ZEROS, sha256(blank.encode()), 1).encode()


def decode_manifest(content: bytes, checkpoint: Path) -> tuple[dict[str, Any], dict[str, StoredFile]]:
    """Return the manifest and the files that it lists, both checked.

    Raises:
        DamagedCheckpoint, NewerCheckpoint: it is damaged, or of a newer format.
    """
    try:
        manifest = parse_json(content)
    except ValueError as error:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is not JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is no JSON object")
    version, own = manifest.get("format"), str(manifest.get(OWN_HASH))
    hashed = _SHA256.fullmatch(own) is not None
    if hashed and sha256(content.replace(own.encode(), _ZEROS.encode(), 1)) != own:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is not what was written")
    if type(version) is int and version > FORMAT:
        raise NewerCheckpoint(checkpoint, version)
    if not hashed or version != FORMAT or type(version) is not int:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is not of a checkpoint of shufflenet-fn")
    step = manifest.get("step")
    if type(step) is not int or not 0 <= step < 10**18:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} gives {step!r} as its step")
    named = step_of(checkpoint.name)
    if named is not None and named != step:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} is of step {step}, not of the folder's")
    return manifest, _stored_files(manifest.get("files"), checkpoint)


def _stored_files(listed: object, checkpoint: Path) -> dict[str, StoredFile]:
    if not isinstance(listed, dict) or not {WEIGHTS, STATE} <= listed.keys():
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST} does not list {WEIGHTS} and {STATE}")
    files = {}
    for name, entry in listed.items():
        if name not in FILES:
            raise DamagedCheckpoint(
                checkpoint, f"{MANIFEST} names {name[:80]!r}, a file that no checkpoint has"
            )
        match entry:
            case {"sha256": str(sha), "bytes": int(size)} if _SHA256.fullmatch(sha) and size >= 0:
                files[name] = StoredFile(sha, size)
            case _:
                raise DamagedCheckpoint(checkpoint, f"{MANIFEST} gives no hash and size of {name}")
    return files


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
    return {"cpu": torch.get_rng_state(), runtime.name: runtime.rng_state()}


def restore_generators(states: Mapping[str, Tensor], runtime: Runtime) -> None:
    """Restore what ``generator_states`` returned, except for devices of another kind."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if runtime.name in states:
        runtime.set_rng_state(states[runtime.name])
