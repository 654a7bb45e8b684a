"""Weights from anywhere: checkpoints of ours, torchvision's files, the original's ``.pth.tar``."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from shufflenet_fn.checkpoint.store import EMA, WEIGHTS
from shufflenet_fn_backends.errors import UsageError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The ``state_dict`` in a file or checkpoint folder, on the CPU.

    A checkpoint folder gives its averaged weights if it has them. A ``.pth``, ``.pt`` or ``.pth.tar`` may
    hold the ``state_dict`` itself or a dict with it under ``state_dict`` or ``model``. Only tensors and
    plain containers are unpickled (``weights_only=True``).

    Raises:
        UsageError: there is no such file, or it holds no weights.
    """
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
        content: Any = (
            safetensors.torch.load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise UsageError(f"cannot read weights from {file}: {_first_line(error)}") from error
    except safetensors.SafetensorError as error:
        raise UsageError(f"cannot read weights from {file}: {error}") from error
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
