"""Reading a checkpoint: every byte is hashed before anything is made of it, and it is read once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from shufflenet_fn.checkpoint.files import read_regular
from shufflenet_fn.checkpoint.format import (
    GENERATORS,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    DamagedCheckpoint,
    StoredFile,
    decode_manifest,
    sha256,
)
from shufflenet_fn.checkpoint.safetensors_header import BadHeader, read_header
from shufflenet_fn.checkpoint.tensors import Tensors, state_from
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.training.state import TrainState


class Content(NamedTuple):
    """All of a checkpoint. ``files``: tensors by file and name, on the CPU."""

    path: Path
    manifest: dict[str, Any]
    files: dict[str, dict[str, Tensor]]


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest alone, which vouches for itself; the files beside it are not looked at.

    Raises:
        DamagedCheckpoint, NewerCheckpoint: it cannot be relied on.
    """
    return _manifest(checkpoint)[0]


def verify(checkpoint: Path) -> dict[str, Any]:
    """The manifest of an undamaged checkpoint.

    Raises:
        DamagedCheckpoint: a file is missing or is not what was written.
        NewerCheckpoint: another version of shufflenet-fn is needed to tell.
    """
    manifest, files = _manifest(checkpoint)
    for name, content in _checked_files(checkpoint, files):
        _check_header(content, checkpoint, name)
    return manifest


def read_checkpoint(checkpoint: Path) -> Content:
    """Everything in an undamaged checkpoint. Raises as ``verify``."""
    manifest, files = _manifest(checkpoint)
    return Content(
        checkpoint,
        manifest,
        {
            name: parse_safetensors(content, checkpoint, name)
            for name, content in _checked_files(checkpoint, files)
        },
    )


def load_state(checkpoint: Path, config: ShuffleNetConfig, like: TrainState) -> TrainState:
    """The train state in ``checkpoint``, with the structure and on the device of ``like``.

    It is in logical channel order, as every checkpoint; of ``like`` only shapes and dtypes matter.

    Raises:
        DamagedCheckpoint, NewerCheckpoint: see ``verify``.
        UsageError: it was written with other settings (say, without EMA).
    """
    return state_from(read_checkpoint(checkpoint).files, config, like, checkpoint)


def load_generators(checkpoint: Path) -> Tensors:
    """The states of generators in ``checkpoint``; none where it was saved without."""
    return read_checkpoint(checkpoint).files.get(GENERATORS, {})


def parse_safetensors(content: bytes, checkpoint: Path, name: str) -> dict[str, Tensor]:
    """The tensors in ``content``, the file ``name``. Raises ``DamagedCheckpoint``."""
    _check_header(content, checkpoint, name)
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise DamagedCheckpoint(checkpoint, f"{name}: {error}") from None


def _check_header(content: bytes, checkpoint: Path, name: str) -> None:
    try:
        read_header(content, len(content))
    except BadHeader as error:
        raise DamagedCheckpoint(checkpoint, f"{name}: {error}") from None


def _manifest(checkpoint: Path) -> tuple[dict[str, Any], dict[str, StoredFile]]:
    try:
        content = read_regular(checkpoint / MANIFEST, limit=MAX_MANIFEST_BYTES)
    except OSError as error:
        raise DamagedCheckpoint(checkpoint, f"{MANIFEST}: {error.strerror}") from None
    except ValueError as error:
        raise DamagedCheckpoint(checkpoint, str(error)) from None
    return decode_manifest(content, checkpoint)


def _checked_files(checkpoint: Path, files: dict[str, StoredFile]) -> Iterator[tuple[str, bytes]]:
    for name, stored in files.items():
        try:
            content = read_regular(checkpoint / name, limit=stored.bytes, exactly=stored.bytes)
        except OSError as error:
            raise DamagedCheckpoint(checkpoint, f"{name}: {error.strerror}") from None
        except ValueError as error:
            raise DamagedCheckpoint(checkpoint, str(error)) from None
        if sha256(content) != stored.sha256:
            raise DamagedCheckpoint(checkpoint, f"{name} is not what was written")
        yield name, content
