"""Names of the candidates that benchmarks measure, and helpers for those of torchvision."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch

from shufflenet_fn.bench.workers import Step
from shufflenet_fn.model.config import canonical_name
from shufflenet_fn_backends.fused.library import find_compiler
from shufflenet_fn_backends.support.errors import DeviceError, UsageError

OURS: Final = "shufflenet-fn"
OURS_COMPILED: Final = "shufflenet-fn compiled"
ONNX: Final = "onnxruntime"
EMULATED: Final = (
    "these times mean nothing: they are of the emulator of CANN, which computes on this machine's CPU, and "
    "not of a chip"
)
_COMPILATIONS: Final = 8


class Peer(NamedTuple):
    """A way to run torchvision's model.

    ``memory_format``: layout of its weights and the images. ``compiled``: whether it runs under
    ``torch.compile``. ``folded``: whether its batch norms are folded into the convolutions.
    """

    memory_format: torch.memory_format
    compiled: bool = False
    folded: bool = False


def peers(*, folding: bool) -> dict[str, Peer]:
    """Return all peers by name; with ``folding``, for inference, also those with folded batch norms."""
    layouts = (("", torch.contiguous_format), (" channels_last", torch.channels_last))
    return {
        f"torchvision{layout}{' folded' * folded}{' compiled' * compiled}": Peer(
            memory_format, compiled, folded
        )
        for compiled in (False, True)
        for folded in ((False, True) if folding else (False,))
        for layout, memory_format in layouts
    }


class Field(NamedTuple):
    """``present``: names of the peers to measure. ``left_out``: the other peers' names, with the reasons."""

    present: tuple[str, ...]
    left_out: dict[str, str]


def available(all_peers: Mapping[str, Peer], *, compiled: bool) -> Field:
    """Return the peers that can be measured here. Compiled ones need ``compiled`` and a C++ compiler."""
    reason = "--no-compile"
    try:
        find_compiler()
    except DeviceError as error:
        if compiled:
            compiled, reason = False, str(error).split(". ")[0]
    present = tuple(name for name, peer in all_peers.items() if compiled or not peer.compiled)
    return Field(present, {name: reason for name in all_peers if name not in present})


def announced(field: Field) -> list[str]:
    """Return warnings about candidates that are left out, unless the user left them out."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in field.left_out.items():
        if not reason.startswith("--"):
            by_reason.setdefault(reason, []).append(name)
    return [f"WARNING: not measured: {', '.join(names)} ({reason})" for reason, names in by_reason.items()]


def settled(step: Step) -> Step:
    """Call ``step`` until ``torch.compile`` has nothing left to compile, and return it.

    torch compiles again if the layout of an argument changes, as that of a training state does in the first
    steps.
    """
    stats = importlib.import_module("torch._dynamo.utils").counters["stats"]
    for _ in range(_COMPILATIONS):
        before = stats["unique_graphs"]
        step()
        if stats["unique_graphs"] == before:
            break
    return step


def torchvision_models(command: str) -> Any:
    """Import and return ``torchvision.models``.

    Raises:
        UsageError: it cannot be imported; the message says why ``command`` needs it.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise UsageError(
            f"{command} measures against torchvision, which cannot be imported ({error}). Install it: "
            "pip install 'shufflenet-fn[bench]'."
        ) from error
    return models


def torchvision_model(command: str, arch: str, state_dict: Mapping[str, torch.Tensor]) -> Any:
    """Return torchvision's module of an architecture with these weights, in training mode."""
    models = torchvision_models(command)
    model = getattr(models, canonical_name(arch))()
    model.load_state_dict(state_dict)
    return model.train()
