"""Write a checkpoint so that a crash at any moment loses nothing.

It is written to a temporary folder; every file and the folder are flushed; the folder is renamed, its parent
flushed, and everything is read back and verified. If it replaces a checkpoint of the same step, the old one
keeps a name under which it is found until the new one is verified.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch

from shufflenet_fn.checkpoint.format import (
    MANIFEST,
    REPLACED,
    StoredFile,
    Tensors,
    checkpoint_name,
    contiguous_on_cpu,
    encode_manifest,
    sha256,
    tensors_of,
)
from shufflenet_fn.checkpoint.read import verify
from shufflenet_fn.io import DISK, Disk, remove_tree, write_durably
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.training.state import TrainState
from shufflenet_fn_backends.support.errors import UserError


def save_checkpoint(
    folder: Path,
    config: ShuffleNetConfig,
    state: TrainState,
    manifest: Mapping[str, Any],
    *,
    generators: Tensors = MappingProxyType({}),
    disk: Disk = DISK,
) -> Path:
    """Write ``state`` below ``folder`` and return the new checkpoint's path.

    ``state`` must be in canonical channel order, torchvision's: a training state that is kept in a backend's
    permuted order is converted first (``shufflenet_fn.model.channel_order.to_canonical``).
    ``manifest`` is any JSON object; format, step, sizes and hashes are added to it. A checkpoint of
    the same step is replaced. ``generators``: see ``shufflenet_fn.checkpoint.format``.

    Raises:
        UserError: the disk is full or not writable, or what was written does not read back. Nothing
            that was there before is lost.
    """
    files = tensors_of(config, state, generators)
    return write_checkpoint(folder, int(state.step), files, manifest, disk=disk)


def write_checkpoint(
    folder: Path, step: int, files: Mapping[str, Tensors], manifest: Mapping[str, Any], *, disk: Disk = DISK
) -> Path:
    """Write the tensors of ``files`` as the checkpoint of ``step``. Raises as ``save_checkpoint``."""
    final = folder / checkpoint_name(step)
    aside = folder / f".{final.name}.partial"
    replaced = folder / f"{final.name}{REPLACED}"
    contents = {
        name: safetensors.torch.save(contiguous_on_cpu(tensors), metadata={"format": "pt"})
        for name, tensors in files.items()
    }
    stored = {name: StoredFile(sha256(content), len(content)) for name, content in contents.items()}
    contents[MANIFEST] = encode_manifest(manifest, step, stored)
    try:
        _make_folders(disk, folder)
        _discard(disk, aside)  # left by a process that was killed while writing
        disk.make_folder(aside)
        for name, content in contents.items():
            write_durably(disk, aside / name, content)
        disk.flush(aside)
        if final.exists():
            retire(disk, replaced)  # of a replacement that was cut short after `final` had its name
            disk.rename(final, replaced)
        disk.rename(aside, final)
        disk.flush(folder)
        verify(final, finite=False)  # what diverged is kept too, to be looked at
        retire(disk, replaced)
    except OSError as error:
        with contextlib.suppress(OSError):  # if the file system fails, the first error is the one to report
            _discard(disk, aside)
        raise UserError(
            f"cannot write the checkpoint {final}: {error.strerror or error}. Free some space or make "
            "the run directory writable, then go on with --resume."
        ) from error
    return final


def retire(disk: Disk, checkpoint: Path) -> None:
    """Remove a checkpoint, if it exists. A crash never leaves half of it behind as a checkpoint."""
    if checkpoint.exists():
        aside = checkpoint.with_name(f".{checkpoint.name}.removed")
        _discard(disk, aside)
        disk.rename(checkpoint, aside)
        disk.flush(checkpoint.parent)
        remove_tree(disk, aside)


def _make_folders(disk: Disk, folder: Path) -> None:
    if not folder.is_dir():
        _make_folders(disk, folder.parent)
        disk.make_folder(folder)
        disk.flush(folder.parent)


def _discard(disk: Disk, path: Path) -> None:
    if path.is_symlink():
        disk.unlink(path)
    elif path.exists():
        remove_tree(disk, path)
