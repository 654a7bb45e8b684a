"""A trained model with what its use needs: weights, class names, preprocessing and origin."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from shufflenet_fn.checkpoint.torchvision import HEAD, from_torchvision
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.config.derived import eval_resize
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.demo import ensure_demo
from shufflenet_fn.data.device_ops import IMAGENET_MEAN, IMAGENET_STD
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.model.config import ShuffleNetConfig, get_config
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.run.score import arch_of, locate
from shufflenet_fn.tree import tree_cast
from shufflenet_fn_backends.support.errors import UsageError

MEAN = tuple(255 * value for value in IMAGENET_MEAN)
STD = tuple(255 * value for value in IMAGENET_STD)
"""Per channel (RGB), in units of 0 to 255."""


@dataclass(frozen=True)
class Model:
    """``variables`` are float32 on the CPU. ``classes``: the names of the outputs, ``None`` if not known.

    ``resize`` and ``size``: of ``EvalTransform``. ``source`` and ``sha256``: the path of the weights, and a
    hash of their names and bytes. ``notes``: what was chosen in opening it.
    """

    arch: str
    config: ShuffleNetConfig
    variables: Variables
    classes: tuple[str, ...] | None
    resize: int
    size: int
    source: str
    sha256: str
    notes: tuple[str, ...] = ()


def open_model(
    path: Path,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    names: Path | None = None,
) -> Model:
    """Open a run directory (its best checkpoint), a checkpoint, or a weights file.

    Args:
        path: where it is.
        arch: the architecture of a bare weights file; a checkpoint knows its own.
        image_size: side of the central crop; by default the run's, or 224.
        resize: short side before the crop; by default the run's, or 256/224 of the crop.
        names: a text file with a class name on each line, for weights that carry none.

    Raises:
        UsageError, UserError: with the one thing that is wrong.
    """
    source, manifest, notes = locate(path)
    stored = manifest.get("settings", {})
    arch = arch_of(arch, stored, source)
    weights = read_weights(source)
    if not set(HEAD) <= weights.tensors.keys():
        raise UsageError(
            f"the weights in {printable(source)} have no classifier (fc.weight, fc.bias), so they predict no "
            f"classes. Train one with `shufflenet-fn train --pretrained {printable(source)}`."
        )
    width = len(weights.tensors[HEAD[0]])
    classes = weights.classes if names is None else _read_names(names)
    if classes is not None and len(classes) != width:
        where = "The checkpoint" if names is None else printable(names)
        raise UsageError(
            f"{where} names {len(classes)} classes, but the weights in {printable(source)} have {width}. "
            "Give --names a file with a name on each line, in the order of the outputs."
        )
    size = image_size or stored.get("image_size") or 224
    short_side = eval_resize(size, resize or (None if image_size else stored.get("eval_resize")))
    EvalTransform(short_side, size)  # checks both
    config = get_config(arch, num_classes=width)
    digest = hashlib.sha256()
    for key, tensor in sorted(weights.tensors.items()):
        digest.update(key.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return Model(
        arch=arch,
        config=config,
        variables=tree_cast(from_torchvision(weights.tensors, config), torch.float32),
        classes=classes,
        resize=short_side,
        size=size,
        source=str(source.absolute()),
        sha256=digest.hexdigest(),
        notes=(*notes, *weights.notes),
    )


def open_labelled(model: Model, data: str, split: str) -> Dataset:
    """Open a split whose labels index the classes of ``model``. Raises ``UsageError`` if it has others."""
    root = ensure_demo() if data == "demo" else data
    dataset = open_split(root, split, model.classes, known_by="the model")
    if len(dataset.classes) != model.config.num_classes:
        raise UsageError(
            f"{data} has {len(dataset.classes)} classes, but the model has {model.config.num_classes}."
        )
    return dataset


def _read_names(file: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"cannot read --names {printable(file)}: {reason}.") from error
