"""Writing and finding checkpoints in a run's ``checkpoints/`` folder.

A checkpoint is a folder ``step-00001234/``:

* ``weights.safetensors``: parameters and running statistics under torchvision's key names, so that
  ``torchvision.models.shufflenet_v2_*`` loads it with ``strict=True``;
* ``ema.safetensors``: the averaged weights in the same form, if the run keeps them;
* ``state.safetensors``: optimizer state, loss scale and step, under dotted paths;
* ``generators.safetensors``: states of random generators by device, if any are given;
* ``manifest.json``: what it is of, and the SHA-256 of every file beside it and of itself.

It is written aside, flushed to disk, renamed, read back and verified; only then ``latest.json`` (and
``best.json``) point to it, and only after that old ones are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from shufflenet_fn.convert.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.tree import tree_paths, tree_unflatten
from shufflenet_fn_backends.errors import UsageError, UserError

MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
EMA: Final = "ema.safetensors"
STATE: Final = "state.safetensors"
GENERATORS: Final = "generators.safetensors"
FORMAT: Final = 1
_OWN_HASH: Final = "sha256_of_this_file_with_zeros_here"
_ZEROS: Final = "0" * 64


def save_checkpoint(
    folder: Path,
    config: ShuffleNetConfig,
    state: TrainState,
    manifest: dict[str, Any],
    *,
    generators: Mapping[str, Tensor] = MappingProxyType({}),
) -> Path:
    """Write ``state`` below ``folder`` and return the new checkpoint's path.

    ``state`` must be in logical channel order, torchvision's: a training state that is kept in a backend's
    physical order is converted first (``shufflenet_fn.model.channel_order.to_logical``).
    ``manifest`` is any JSON object; the format number and the hashes are added to it. A checkpoint of
    the same step is replaced. ``generators``: see ``shufflenet_fn.checkpoint.generators``.

    Raises:
        UserError: the disk is full or not writable, or what was written does not read back. Nothing
            that was there before is lost.
    """
    step = int(state.step)
    final = folder / f"step-{step:08d}"
    aside = folder / f".{final.name}.partial-{os.getpid()}"
    replaced = folder / f".{final.name}.replaced-{os.getpid()}"
    files = {
        WEIGHTS: to_torchvision(state.variables, config, num_batches_tracked=step),
        STATE: _state_tensors(state),
    }
    if generators:
        files[GENERATORS] = dict(generators)
    if isinstance(state.ema, Variables):
        files[EMA] = to_torchvision(state.ema, config, num_batches_tracked=step)
    try:
        # Left by a process killed while writing; in containers process numbers repeat.
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        hashes = {name: _write(aside / name, _on_cpu(tensors)) for name, tensors in files.items()}
        content = {**manifest, "format": FORMAT, "step": step, "sha256": hashes}
        _write_durably(aside / MANIFEST, _with_own_hash(content))
        if final.exists():
            final.rename(replaced)
        aside.rename(final)
        _flush_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the checkpoint {final}: {error.strerror or error}. Free some space or make "
            "the run directory writable, then go on with --resume."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    verify(final)
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def verify(checkpoint: Path) -> dict[str, Any]:
    """The manifest of an undamaged checkpoint.

    Raises:
        UserError: a file is missing or its hash is not the manifest's.
    """
    try:
        content = (checkpoint / MANIFEST).read_bytes()
        manifest: dict[str, Any] = json.loads(content)
        hashes = manifest["sha256"]
        damaged = [name for name, sha in hashes.items() if _sha256(checkpoint / name) != sha]
        own = manifest[_OWN_HASH]
        if _hash(content.replace(own.encode(), _ZEROS.encode(), 1)) != own:
            damaged.append(MANIFEST)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint {checkpoint} is damaged: {error!r}.") from None
    if damaged:
        raise UserError(
            f"the checkpoint {checkpoint} is damaged: {', '.join(damaged)} is not what was written."
        )
    return manifest


def load_state(checkpoint: Path, config: ShuffleNetConfig, like: TrainState) -> TrainState:
    """The train state in ``checkpoint``, with the structure and on the device of ``like``.

    It is in logical channel order, as every checkpoint; of ``like`` only shapes and dtypes matter.

    Raises:
        UserError: it is damaged.
        UsageError: it was written with other settings (say, without EMA).
    """
    verify(checkpoint)
    device = like.step.device
    stored = _read(checkpoint / STATE)
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
            "do not match. Momentum, clipping, loss scale and precision must be those of the run it is "
            "from."
        )
    if isinstance(like.ema, Variables) and not (checkpoint / EMA).exists():
        raise UsageError(
            f"the checkpoint {checkpoint} was written with other settings: it holds no averaged weights "
            f"({EMA}). Leave EMA off, as in the run it is from."
        )
    restored = tree_unflatten(rest, [stored[path].to(device) for path in expected])
    variables = _load_variables(checkpoint / WEIGHTS, config, like.variables)
    ema = like.ema
    if isinstance(like.ema, Variables):
        ema = _load_variables(checkpoint / EMA, config, like.ema)
    return TrainState(
        step=restored["step"],
        params=variables.params,
        batch_stats=variables.batch_stats,
        opt_state=restored["opt_state"],
        loss_scale=restored["loss_scale"],
        ema=ema,
    )


def load_generators(checkpoint: Path) -> dict[str, Tensor]:
    """The states of generators in ``checkpoint``; none where it was saved without."""
    path = checkpoint / GENERATORS
    return _read(path) if path.exists() else {}


def point_to(folder: Path, name: str, checkpoint: Path) -> None:
    """Make ``folder/name.json`` name ``checkpoint``, atomically."""
    aside = folder / f".{name}.json.partial-{os.getpid()}"
    _write_durably(aside, json.dumps({"checkpoint": checkpoint.name}).encode())
    aside.rename(folder / f"{name}.json")
    _flush_folder(folder)


def pointed_to(folder: Path, name: str) -> Path | None:
    """The checkpoint that ``folder/name.json`` names, if there is one."""
    try:
        return folder / str(json.loads((folder / f"{name}.json").read_text())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints below ``folder``, newest step first."""
    return sorted(folder.glob("step-*"), reverse=True)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints, the best one and the latest."""
    needed = {pointed_to(folder, "best"), pointed_to(folder, "latest")}
    for checkpoint in checkpoints(folder)[keep:]:
        if checkpoint not in needed:
            shutil.rmtree(checkpoint)


def _rest(state: TrainState) -> dict[str, Any]:
    """What ``weights.safetensors`` and ``ema.safetensors`` do not hold."""
    return {"step": state.step, "opt_state": state.opt_state, "loss_scale": state.loss_scale}


def _state_tensors(state: TrainState) -> dict[str, Tensor]:
    return {path: leaf.detach() for path, leaf in tree_paths(_rest(state))}


def _load_variables(path: Path, config: ShuffleNetConfig, like: Variables) -> Variables:
    loaded = from_torchvision(_read(path), config)
    # By path and not by position: two trees may have the same keys in another order.
    new = dict(tree_paths(loaded))
    matched = [new[path].to(device=old.device, dtype=old.dtype) for path, old in tree_paths(like)]
    return tree_unflatten(like, matched)


def _read(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # A fresh contiguous copy of each: safetensors refuses other layouts and shared storage.
    return {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    _write_durably(path, content)
    return _hash(content)


def _with_own_hash(manifest: dict[str, Any]) -> bytes:
    blank = json.dumps({_OWN_HASH: _ZEROS, **manifest}, indent=2)
    return blank.replace(_ZEROS, _hash(blank.encode()), 1).encode()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
