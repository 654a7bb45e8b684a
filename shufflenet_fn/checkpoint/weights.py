"""Weights from anywhere: checkpoints of ours, torchvision's files, the original's ``.pth.tar``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from shufflenet_fn.checkpoint.format import EMA, MANIFEST, WEIGHTS
from shufflenet_fn.checkpoint.inventory import (
    BEST,
    CHECKPOINTS,
    LATEST,
    checkpoints_of,
    newest_good,
    pointed_to,
)
from shufflenet_fn.checkpoint.read import Content, read_checkpoint
from shufflenet_fn_backends.support.errors import UsageError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the ``state_dict`` in a file or checkpoint folder, on the CPU.

    A run directory gives its best checkpoint. A checkpoint folder gives its averaged weights if it has
    them. A ``.pth``, ``.pt`` or ``.pth.tar`` may hold the ``state_dict`` itself or a dict with it under
    ``state_dict`` or ``model``. Only tensors and plain containers are unpickled (``weights_only=True``).

    Raises:
        UsageError: there is no such file, or it holds no weights.
        UserError: the checkpoint is damaged.
    """
    if (path / CHECKPOINTS).is_dir():
        folder = checkpoints_of(path)
        pointed = pointed_to(folder, BEST) or pointed_to(folder, LATEST)
        found = None if pointed else newest_good(folder)[0]
        if found is not None:
            return weights_of(found)
        path = pointed or path
    if (path / MANIFEST).exists():
        return weights_of(read_checkpoint(path))
    if path.is_dir():
        file = path / EMA if (path / EMA).exists() else path / WEIGHTS
    else:
        file = path
    if not file.is_file():
        raise UsageError(
            f"no weights at {path}. Give a .safetensors, .pth or .pth.tar file, or a checkpoint folder "
            f"that holds {WEIGHTS}."
        )
    try:
        content = _load(file)
    except OSError as error:
        raise UsageError(f"cannot read weights from {file}: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise UsageError(
            f"cannot read weights from {file}: it is damaged, or it is no safetensors file: {error}."
        ) from None
    # A damaged pickle makes the unpickler raise anything: IndexError, struct.error, AssertionError.
    except Exception as error:
        raise UsageError(
            f"cannot read weights from {file}: it is damaged, it is no weights file, or it is a pickle "
            "that holds more than tensors and plain containers, which is not loaded because it could "
            "run code. If you trust it, save its state_dict anew as .safetensors. "
            f"({type(error).__name__})"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise UsageError(
            f"{file} holds no state_dict: a mapping from names to tensors, at the top or under "
            "'state_dict' or 'model'."
        )
    return dict(content)


def weights_of(content: Content) -> dict[str, Tensor]:
    """Return the ``state_dict`` of a checkpoint: its averaged weights if it has them."""
    return content.files.get(EMA, content.files[WEIGHTS])


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    with warnings.catch_warnings():
        # Of a file that another tool pickled; what matters is whether it holds weights.
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(file, map_location="cpu", weights_only=True)
