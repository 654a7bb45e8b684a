"""Weights from anywhere: checkpoints of ours, and files of other tools in any common form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
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
from shufflenet_fn.checkpoint.named_weights import FORMS
from shufflenet_fn.checkpoint.read import Content, read_checkpoint, read_manifest
from shufflenet_fn.checkpoint.torchvision import canonical_keys, is_head, not_finite, prefixes_of
from shufflenet_fn.checkpoint.weights_file import CLASSES, load_file
from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UsageError

_DEPTH: Final = 4
"""Levels of containers in which a ``state_dict`` is looked for."""

_AVERAGE: Final = re.compile(r"(^|[._(])(ema|swa|avg|averaged?)([._)]|$)", re.IGNORECASE)
_CLASSES: Final = ("classes", "class_names", "class_to_idx", "idx_to_class", "names")


class Weights(NamedTuple):
    """``tensors``: under torchvision's keys. ``classes``: what the outputs mean, ``None`` if not known.

    ``notes``: what was chosen or left out.
    """

    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None
    notes: list[str]


def read_weights(path: Path) -> Weights:
    """Return the weights in a file or checkpoint folder, on the CPU.

    A run directory gives its best checkpoint. Where there are averaged weights beside raw ones, the averaged
    ones are taken. A file may hold the ``state_dict`` itself or containers with it. Only tensors and plain
    values are unpickled (``weights_only=True``).

    Raises:
        UsageError: there is no such file, it holds no weights, or some that are not finite.
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
            f"that holds {WEIGHTS}, or a name: {FORMS}."
        )
    weights = _choose(load_file(file), printable(file))
    if file.name in (WEIGHTS, EMA) and (file.parent / MANIFEST).exists():
        return weights._replace(classes=_classes_of(read_manifest(file.parent)))
    return weights


def weights_of(content: Content) -> Weights:
    """Return the weights of a checkpoint: its averaged ones if it has them."""
    averaged = content.files.get(EMA)
    return Weights(
        canonical_keys(averaged or content.files[WEIGHTS]),
        _classes_of(content.manifest),
        [] if averaged is None else [f"averaged weights ({EMA}) are taken, not the raw ones"],
    )


def _classes_of(manifest: Mapping[str, Any]) -> tuple[str, ...] | None:
    classes = manifest.get("classes")
    return tuple(classes) if isinstance(classes, list) else None


class _Candidate(NamedTuple):
    """One network in a file. ``name``: of the containers and the prefix that it lies under."""

    name: str
    tensors: dict[str, Tensor]
    outside: list[str]


def _choose(content: Any, file: str) -> Weights:
    mappings = dict(_mappings(content))
    found = [each for where, tensors in mappings.items() for each in _networks(where, tensors)]
    averaged = [each for each in found if _AVERAGE.search(each.name)]
    chosen = averaged or found
    if len(chosen) > 1:
        names = printable(", ".join(each.name or "the top" for each in chosen))
        raise UsageError(
            f"{file} holds the weights of {len(chosen)} networks: {names}. Save the one to use by itself."
        )
    if not chosen and not mappings:
        kind = "only the state of an optimizer, and " if _is_optimizer(content) else ""
        raise UsageError(
            f"{file} holds {kind}no state_dict: a mapping from names to tensors, at the top or in "
            "containers such as 'state_dict' or 'model'. Save model.state_dict()."
        )
    notes = []
    if averaged and len(found) > 1:
        raw = ", ".join(each.name or "the top" for each in found if each not in averaged)
        notes.append(printable(f"averaged weights ({chosen[0].name}) are taken, not {raw}"))
    if chosen and chosen[0].outside:
        names = ", ".join(chosen[0].outside[:4])
        notes.append(printable(f"not of the network, left out: {names}"))
    # Of another network: what does not fit is said where it is converted.
    tensors = canonical_keys(chosen[0].tensors if chosen else max(mappings.values(), key=len))
    strange = [key for key, value in tensors.items() if not _is_dense(value)]
    if strange:
        raise UsageError(
            printable(f"{file} holds {strange[0]} as a sparse, quantized or empty (meta) tensor. ")
            + "Save dense tensors of floating point."
        )
    wrong = not_finite(tensors)
    if wrong:
        raise UsageError(
            f"the weights in {file} hold values that are not finite (NaN or infinite): {wrong}. The run "
            "that they are from has diverged: take an earlier checkpoint of it."
        )
    return Weights(tensors, _classes(content, tensors), notes)


def _networks(where: str, tensors: dict[str, Tensor]) -> Iterator[_Candidate]:
    prefixes = sorted(prefixes_of(tensors), key=len, reverse=True)
    owner = {key: next((p for p in prefixes if key.startswith(p)), None) for key in tensors}
    beside = [key for key in tensors if owner[key] is None and not key.endswith("n_averaged")]
    for prefix in prefixes:
        inside = {key: tensors[key] for key in tensors if owner[key] == prefix}
        if not any(is_head(key.removeprefix(prefix)) for key in inside):
            inside |= {key: tensors[key] for key in beside if is_head(key)}
        name = ".".join(filter(None, (where, prefix.rstrip("."))))
        if "n_averaged" in tensors and not _AVERAGE.search(name):
            name = f"{name} (averaged)"
        yield _Candidate(name, inside, [key for key in beside if key not in inside])


def _mappings(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors in each container, by the names that lead to it, outside optimizers."""
    seen: set[int] = set()
    level = [("", content)]
    for _ in range(_DEPTH):
        inner: list[tuple[str, Any]] = []
        for where, value in level:
            if not isinstance(value, Mapping) or id(value) in seen or "param_groups" in value:
                continue
            seen.add(id(value))
            named = {key: item for key, item in value.items() if isinstance(key, str)}
            tensors = {key: item for key, item in named.items() if isinstance(item, Tensor)}
            if any(tensor.ndim for tensor in tensors.values()):
                yield where, tensors
            inner += [(f"{where}.{key}".lstrip("."), item) for key, item in named.items()]
        level = inner


def _is_optimizer(content: Any) -> bool:
    levels = [content, *content.values()] if isinstance(content, Mapping) else []
    return any(isinstance(value, Mapping) and "param_groups" in value for value in levels)


def _is_dense(tensor: Tensor) -> bool:
    strided = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized)
    return strided and tensor.device.type == "cpu"


def _classes(content: Any, tensors: dict[str, Tensor]) -> tuple[str, ...] | None:
    """The class names in a file, in the order of the outputs, if there are as many as outputs."""
    width = len(tensors["fc.weight"]) if "fc.weight" in tensors else 0
    given = [content.get(key) for key in _CLASSES] if isinstance(content, Mapping) else []
    given.append(getattr(content, CLASSES, None))
    for value in given:
        names: list[Any] = list(value) if isinstance(value, (list, tuple)) else []
        if isinstance(value, Mapping):  # from indices to names, or from names to indices
            named = {index: name for name, index in value.items() if isinstance(index, int)}
            names = [(named or value).get(index) for index in range(len(value))]
        strings = names and all(isinstance(name, str) for name in names)
        if strings and len(set(names)) == len(names) == width:
            return tuple(names)
    return None
