"""Write a model's weights in the form that another tool reads."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.checkpoint.weights_file import CLASSES
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import check_output, to_json, write_output
from shufflenet_fn.use.model import Model, open_model
from shufflenet_fn_backends.support.errors import UsageError

ENDINGS: Final = (".safetensors", ".pth.tar", ".pth", ".pt")


def convert(
    name: str | os.PathLike[str], out: Path, *, arch: str | None = None, names: Path | None = None
) -> Model:
    """Write the weights of a model to ``out``, whole or not at all, and return the model.

    Class names are written too, and ``read_weights`` reads them back.

    Args:
        name: the model, with ``arch`` and ``names`` as for ``open_model``.
        out: ``.safetensors``, ``.pth`` and ``.pt`` hold torchvision's ``state_dict``, ``.pth.tar`` what the
            original saves. An existing file is replaced.

    Raises:
        UsageError: the ending is another, the folder does not exist, or the model cannot be opened.
        UserError: the file cannot be written.
    """
    ending = next((ending for ending in ENDINGS if out.name.endswith(ending)), None)
    if ending is None:
        raise UsageError(
            f"{printable(out)} must end in .safetensors, .pth or .pt (torchvision's state_dict), or .pth.tar "
            "(the original's checkpoint). `shufflenet-fn export` writes .onnx and .pt2."
        )
    check_output(out)
    model = open_model(name, arch=arch, names=names)
    classes = list(model.classes or ())
    tensors = to_torchvision(model.variables, model.config)
    if ending == ".safetensors":
        about = {"format": "pt", "arch": model.arch}
        about |= {CLASSES: to_json(classes)} if classes else {}
        write_output(out, safetensors.torch.save(tensors, metadata=about))
        return model
    state_dict = OrderedDict(tensors)
    content = _original(model.arch, tensors, classes) if ending == ".pth.tar" else state_dict
    if classes:
        # An attribute, as the `_metadata` of torch, so that `load_state_dict(…, strict=True)` takes the file.
        vars(state_dict)[CLASSES] = classes
    holder = io.BytesIO()
    torch.save(content, holder)
    write_output(out, holder.getvalue())
    return model


def _original(arch: str, tensors: dict[str, Tensor], classes: list[str]) -> dict[str, Any]:
    """What the original saves after training on several devices, with an optimizer that has made no step."""
    parameters = [torch.nn.Parameter(t) for key, t in tensors.items() if key.endswith((".weight", ".bias"))]
    return {
        "epoch": 0,
        "arch": arch,
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in tensors.items()),
        "best_acc1": torch.tensor(0.0),
        "optimizer": torch.optim.SGD(parameters, lr=0.1).state_dict(),
        **({CLASSES: classes} if classes else {}),
    }
