"""A trained model with what its use needs: weights, class names, preprocessing and origin."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shufflenet_fn.checkpoint.format import MANIFEST
from shufflenet_fn.checkpoint.inventory import BEST, checkpoints_of, pointed_to
from shufflenet_fn.checkpoint.named_weights import FORMS, find_weights
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.checkpoint.torchvision import HEAD, from_torchvision, is_head
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.checkpoint.weights_file import check_kind
from shufflenet_fn.config.derived import eval_resize
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.demo import ensure_demo
from shufflenet_fn.data.device_ops import IMAGENET_MEAN, IMAGENET_STD
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.model.config import ShuffleNetConfig, canonical_name, get_config
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.run.resume import find_checkpoint
from shufflenet_fn.tree import tree_cast
from shufflenet_fn_backends.support.errors import UsageError

MEAN = tuple(255 * value for value in IMAGENET_MEAN)
STD = tuple(255 * value for value in IMAGENET_STD)
"""Per channel (RGB), in units of 0 to 255."""


@dataclass(frozen=True)
class Model:
    """``variables`` are float32 on the CPU. ``classes``: the names of the outputs, ``None`` if not known,
    empty if the weights have no classifier; then that in ``variables`` is zero.

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
    path: Path = Path()
    """The weights, as ``source``, relative if it was given so."""
    data: str | None = None
    """The data that its run was trained on."""


def open_model(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    names: Path | None = None,
    headless: bool = False,
) -> Model:
    """Open a run directory (its best checkpoint), a checkpoint, or a weights file.

    Args:
        path: where it is, or a name (``find_weights``).
        arch: the architecture of a bare weights file; a checkpoint knows its own.
        image_size: side of the central crop; by default the run's, or 224.
        resize: short side before the crop; by default the run's, or 256/224 of the crop.
        names: a text file with a class name on each line, for weights that carry none.
        headless: allow weights without a classifier, or with one of another form, which is left out.

    Raises:
        UsageError, UserError: with the one thing that is wrong.
    """
    found = find_weights(path, arch=arch)
    source, manifest, notes = _locate(found.path)
    stored = manifest.get("settings", {})
    weights = read_weights(source)
    arch = _arch_of(arch, stored, source)
    tensors, classes = weights.tensors, weights.classes if names is None else _read_names(names)
    if set(HEAD) <= tensors.keys():
        width = len(tensors[HEAD[0]])
    else:
        missing = f"the weights in {printable(source)} have no classifier (fc.weight, fc.bias)"
        if names or not headless:
            raise UsageError(
                f"{missing}, so they predict no classes. Train one with `shufflenet-fn train --pretrained "
                f"{printable(source)}`."
            )
        other = sorted(filter(is_head, tensors))
        notes.append(missing + (f"; left out: {', '.join(other[:4])}" if other else ""))
        body = {key: value for key, value in tensors.items() if key not in other}
        channels = get_config(arch).stage_channels[-1]
        tensors = {**body, HEAD[0]: torch.zeros(1, channels), HEAD[1]: torch.zeros(1)}
        width, classes = 0, ()
    if classes is not None and len(classes) != width:
        where = "The checkpoint" if names is None else printable(names)
        raise UsageError(
            f"{where} names {len(classes)} classes, but the weights in {printable(source)} have {width}. "
            "Give --names a file with a name on each line, in the order of the outputs."
        )
    size = image_size or stored.get("image_size") or 224
    short_side = eval_resize(size, resize or (None if image_size else stored.get("eval_resize")))
    EvalTransform(short_side, size)  # checks both
    config = get_config(arch, num_classes=max(width, 1))
    digest = hashlib.sha256()
    for key, tensor in sorted(weights.tensors.items()):
        digest.update(key.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return Model(
        arch=arch,
        config=config,
        variables=tree_cast(from_torchvision(tensors, config), torch.float32),
        classes=classes,
        resize=short_side,
        size=size,
        source=str(source.absolute()),
        sha256=digest.hexdigest(),
        notes=(*found.notes, *notes, *weights.notes),
        path=source,
        data=stored.get("data"),
    )


def _locate(weights: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The weights' file or checkpoint, its manifest (empty for a bare file), and notes."""
    if not weights.exists():
        raise UsageError(
            f"no model at {printable(weights)}. Give a run directory, a checkpoint, a weights file, or a "
            f"name: {FORMS}."
        )
    if not weights.is_dir():
        check_kind(weights)
        return weights, {}, []
    if (weights / MANIFEST).exists():
        return weights, read_manifest(weights), []
    best = pointed_to(checkpoints_of(weights), BEST)
    if best is not None:
        return best, read_manifest(best), [f"weights: the run's best checkpoint, {best.name}"]
    content, notes = find_checkpoint(weights, "no model")
    return content.path, content.manifest, [*notes, f"weights: checkpoint {content.path.name}"]


def _arch_of(given: str | None, stored: dict[str, Any], source: Path) -> str:
    if given is None and "arch" not in stored:
        raise UsageError(
            f"{source} does not say which architecture it is of: give --arch, such as --arch x1_0."
        )
    if given is None:
        return str(stored["arch"])
    arch = canonical_name(given)
    if stored.get("arch", arch) != arch:
        raise UsageError(f"the checkpoint {source} is of {stored['arch']}, not of {arch}. Leave --arch out.")
    return arch


def open_labelled(model: Model, data: str, split: str) -> Dataset:
    """Open a split whose labels index the outputs of ``model``: by their class names, else as in train/.

    Raises:
        UsageError: there is no such data, or its classes are not those of the model.
    """
    root = ensure_demo() if data == "demo" else Path(data)
    if model.classes is not None:
        return open_split(root, split, model.classes, "the list of the weights' classes")
    known = open_split(root, "train" if (root / "train").is_dir() else split)
    width, classes = model.config.num_classes, known.classes
    if width != len(classes):
        raise UsageError(
            f"the weights in {model.path} are of {width} classes, and {data} has {len(classes)}. The "
            "file does not name its classes, so labels cannot be mapped to them. Evaluate on the data that "
            "they learned, with all classes in train/; or save the list of names under 'classes' beside the "
            f"state_dict; or train a classifier with `shufflenet-fn train --pretrained {model.path}`."
        )
    return known if known.split == split else open_split(root, split, classes)


def _read_names(file: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"cannot read --names {printable(file)}: {reason}.") from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"--names {printable(file)} has {printable(twice[0])} twice. Give each class its own name."
        )
    return names
