"""The fingerprint of a start: everything that must stay the same for a resume to compute the same bytes.

It contains what affects pixels or the last bits of sums. Settings determine what is computed; all of them are
stored, and a change on the command line is reported.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from shufflenet_fn.checkpoint.format import sha256
from shufflenet_fn.config.derived import microbatches_of, precision_name, stats_in_kernel
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.folder import ImageFolder
from shufflenet_fn.data.packed.read import PackedSplit
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.directory import processor, version_of
from shufflenet_fn_backends.fused.library import build, cache_folder, find_compiler
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.cpu import ALLOCATOR_SETTINGS

ROUNDING: Final = (
    "sums may be rounded otherwise, so the run goes on to an equally good result, but not to the same bytes"
)
_PIXELS: Final = (
    "images may be decoded or changed to slightly other pixels, so the run does not come to the same bytes"
)
_SAMPLES: Final = "the run goes on with other images, or with the same ones in another order"
_STATISTICS: Final = "batch norms see other groups of images, so the run goes on as with another batch size"
_IMAGE_READER: Final = "image reader"
DATA: Final = ("training images", "training classes", "training files")
_DECODERS: Final = ("simplejpeg", "opencv-python-headless", "pillow", "numpy")


def fingerprint_of(
    runtime: Runtime,
    settings: TrainSettings,
    world: World,
    *,
    backend: str,
    image_reader: str,
    train_set: Dataset,
) -> dict[str, Any]:
    """Return the fingerprint of this start: JSON values by name.

    Args:
        runtime: the device's runtime.
        settings: settings of the run.
        world: the ranks.
        backend: name of the backend.
        image_reader: name of the image reader.
        train_set: the training data.
    """
    return {
        "world size": world.size,
        "lanes": microbatches_of(settings, world.size),
        "compute threads": torch.get_num_threads(),
        "device": runtime.name,
        "chip": runtime.chip(),
        "machine": platform.machine(),
        "processor": processor(),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "torch_npu": version_of("torch_npu"),
        "backend": backend,
        "CPU kernels": build(find_compiler(), cache_folder()).stem if backend == "cpu" else None,
        "running statistics by": "kernel" if stats_in_kernel(settings, runtime) else "step",
        "memory format": _memory_format(settings, runtime),
        "precision": precision_name(settings),
        "matmul precision": torch.get_float32_matmul_precision(),
        "oneDNN": bool(torch.backends.mkldnn.enabled),
        "compiled": settings.compile,
        "deterministic operators": torch.are_deterministic_algorithms_enabled(),
        "allocator settings": _environment(ALLOCATOR_SETTINGS),
        _IMAGE_READER: image_reader,
        **{name: version_of(name) for name in _DECODERS},
        "training images": len(train_set),
        "training classes": sha256("\0".join(train_set.classes).encode(errors="surrogatepass")),
        "training files": _files_sha256(train_set),
    }


def compare(stored: Mapping[str, Any], now: Mapping[str, Any], *, bn_stats: str) -> list[str]:
    """Return what has changed, one line for each consequence.

    Args:
        stored, now: ``fingerprint_of`` when the checkpoint was written, and now.
        bn_stats: the setting of this name.
    """
    changed: dict[str, list[str]] = {}
    for name, value in now.items():
        if name in stored and stored[name] != value:
            consequence = _consequence(name, stored, now, bn_stats)
            changed.setdefault(consequence, []).append(_change(name, stored[name], value))
    return [
        f"{'; '.join(changes)} since the checkpoint was written: {consequence}"
        for consequence, changes in changed.items()
    ]


def _consequence(name: str, stored: Mapping[str, Any], now: Mapping[str, Any], bn_stats: str) -> str:
    if name.startswith("training"):
        return _SAMPLES
    if name in _DECODERS or name == _IMAGE_READER:
        return _PIXELS
    if name == "lanes":
        return _STATISTICS
    if name != "world size" or stored.get("lanes") != now["lanes"]:
        return ROUNDING
    kept = "the order of images, the global batch and the groups of batch norms are kept; "
    if bn_stats == "rank0":
        kept += "running statistics are now those of another share of them, as --bn-stats rank0 has it; "
    return kept + ROUNDING


def _change(name: str, before: Any, after: Any) -> str:
    if name in ("training classes", "training files"):
        return f"the list of {name} is another"
    return f"{name} is {_shown(after)} and was {_shown(before)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "absent" if value is None else str(value) or "none"


def _files_sha256(samples: Dataset) -> str:
    """Of what names every image and says where it stands; packed data hold hashes of their content too."""
    digest = hashlib.sha256()
    if isinstance(samples, ImageFolder):
        digest.update(samples.paths.sha256().encode())
    elif isinstance(samples, PackedSplit):
        for file in (samples.files.entries, *samples.files.shards):
            digest.update(file.sha256.encode())
    labels = np.ascontiguousarray(samples.labels[np.arange(len(samples))], dtype=np.int64)
    digest.update(labels.tobytes())
    return digest.hexdigest()


def _memory_format(settings: TrainSettings, runtime: Runtime) -> str:
    if settings.memory_format != "auto":
        return settings.memory_format
    return "channels_last" if runtime.memory_format is torch.channels_last else "nchw"


def _environment(names: tuple[str, ...]) -> str:
    return " ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
