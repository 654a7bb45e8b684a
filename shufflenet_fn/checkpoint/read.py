"""Read a checkpoint: each file is read once, and its hash is checked before it is parsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from shufflenet_fn.checkpoint.format import (
    EMA,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    OWN_HASH,
    WEIGHTS,
    DamagedCheckpoint,
    StoredFile,
    decode_manifest,
    sha256,
)
from shufflenet_fn.checkpoint.torchvision import not_finite
from shufflenet_fn.io import read_regular

MAX_FILE_BYTES: Final = 4 << 30
"""Files above this size are refused before they are read. The largest of ours has less than 100 MB."""


class Content(NamedTuple):
    """A whole checkpoint, read and verified. ``files``: tensors by file and name, on the CPU."""

    path: Path
    manifest: dict[str, Any]
    files: dict[str, dict[str, Tensor]]

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest, which contains the hashes of all files: equal only for equal checkpoints."""
        return str(self.manifest[OWN_HASH])

    def release(self) -> None:
        """Free the tensors. The manifest stays."""
        self.files.clear()

    def __reduce__(self) -> tuple[Callable[..., Content], tuple[object, ...]]:
        # As bytes: a process that is spawned with a tensor would get a handle to shared memory instead.
        files = {name: safetensors.torch.save(tensors) for name, tensors in self.files.items()}
        return _unpickled, (self.path, self.manifest, files)


def _unpickled(path: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> Content:
    return Content(path, manifest, {name: safetensors.torch.load(content) for name, content in files.items()})


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Return the manifest, and check its own hash. The other files are not read.

    Raises:
        DamagedCheckpoint, NewerCheckpoint: it is damaged, or of a newer format.
    """
    return _manifest(checkpoint)[0]


def verify(checkpoint: Path, *, finite: bool = True) -> dict[str, Any]:
    """Return the manifest of an undamaged checkpoint. As ``read_checkpoint``."""
    manifest, stored = _manifest(checkpoint)
    for name, file in stored.items():
        _tensors(checkpoint, name, file, finite)  # one file in memory at a time
    return manifest


def read_checkpoint(checkpoint: Path, *, finite: bool = True) -> Content:
    """Return everything in an undamaged checkpoint.

    Args:
        checkpoint: its folder.
        finite: refuse weights that are not finite, with which nothing can go on.

    Raises:
        DamagedCheckpoint: a file is missing or is not what was written, or weights are not finite.
        NewerCheckpoint: a newer version of shufflenet-fn wrote it.
    """
    manifest, stored = _manifest(checkpoint)
    files = {name: _tensors(checkpoint, name, file, finite) for name, file in stored.items()}
    return Content(checkpoint, manifest, files)


def _manifest(checkpoint: Path) -> tuple[dict[str, Any], dict[str, StoredFile]]:
    content = _read(checkpoint, MANIFEST, limit=MAX_MANIFEST_BYTES)
    return decode_manifest(content, checkpoint)


def _tensors(checkpoint: Path, name: str, stored: StoredFile, finite: bool) -> dict[str, Tensor]:
    content = _read(checkpoint, name, limit=MAX_FILE_BYTES, exactly=stored.bytes)
    if sha256(content) != stored.sha256:
        raise DamagedCheckpoint(checkpoint, f"{name} is not what was written")
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(checkpoint, f"{name}: {error}") from None
    if finite and name in (WEIGHTS, EMA) and (wrong := not_finite(tensors)):
        reason = f"{name} holds values that are not finite (NaN or infinite): {wrong}"
        raise DamagedCheckpoint(checkpoint, reason)
    return tensors


def _read(checkpoint: Path, name: str, *, limit: int, exactly: int | None = None) -> bytes:
    try:
        return read_regular(checkpoint / name, limit=limit, exactly=exactly)
    except OSError as error:
        raise DamagedCheckpoint(checkpoint, f"{name}: {error.strerror}") from None
    except ValueError as error:
        raise DamagedCheckpoint(checkpoint, str(error)) from None
