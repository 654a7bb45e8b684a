"""Write a model's weights in the form that another tool reads."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.checkpoint.weights_file import CLASSES
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import to_json
from shufflenet_fn.use.model import Model
from shufflenet_fn.use.output import check_output, write_out
from shufflenet_fn_backends.support.errors import UsageError

ENDINGS: Final = (".safetensors", ".pth.tar", ".pth", ".pt")


def check_ending(out: Path) -> str:
    """Return the ending of ``out`` that says which form to write. Raises ``UsageError`` for others."""
    for ending in ENDINGS:
        if out.name.endswith(ending):
            check_output(out)
            return ending
    raise UsageError(
        f"{printable(out)} must end in .safetensors or .pth (torchvision's state_dict; .pt as well), or in "
        ".pth.tar (the original's checkpoint). `shufflenet-fn export` writes .onnx and .pt2."
    )


def convert(model: Model, out: Path) -> None:
    """Write the weights of ``model`` to ``out``, whole or not at all. Its ending says in which form.

    Class names are written too, and ``read_weights`` reads them back.

    Args:
        model: from ``open_model``.
        out: ``.safetensors`` and ``.pth`` hold torchvision's ``state_dict``, ``.pth.tar`` what the original
            saves. An existing file is replaced.

    Raises:
        UsageError: the ending is another, or the folder does not exist.
        UserError: the file cannot be written.
    """
    ending = check_ending(out)
    tensors = to_torchvision(model.variables, model.config)
    if ending == ".safetensors":
        about = {"format": "pt", "arch": model.arch}
        about |= {} if model.classes is None else {CLASSES: to_json(model.classes)}
        content = safetensors.torch.save(tensors, metadata=about)
    else:
        holder = io.BytesIO()
        torch.save(_original(model, tensors) if ending == ".pth.tar" else _state_dict(model, tensors), holder)
        content = holder.getvalue()
    write_out(out, content)


def _state_dict(model: Model, tensors: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    # An attribute, as the `_metadata` of torch, so that `load_state_dict(…, strict=True)` takes the file.
    state_dict = OrderedDict(tensors)
    if model.classes is not None:
        vars(state_dict)[CLASSES] = list(model.classes)
    return state_dict


def _original(model: Model, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What the original saves after training on several devices, with an optimizer that has made no step."""
    parameters = [torch.nn.Parameter(t) for key, t in tensors.items() if key.endswith((".weight", ".bias"))]
    content = {
        "epoch": 0,
        "arch": model.arch,
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in tensors.items()),
        "best_acc1": torch.tensor(0.0),
        "optimizer": torch.optim.SGD(parameters, lr=0.1).state_dict(),
    }
    return content if model.classes is None else {**content, CLASSES: list(model.classes)}
