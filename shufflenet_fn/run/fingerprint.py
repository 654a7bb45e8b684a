"""The fingerprint of a start: everything that must stay the same for a resume to compute the same bytes.

It contains what affects pixels or the last bits of sums. Settings determine what is computed; all of them are
stored, and a change on the command line is reported. Starts of one run are compared with each other, and so
are the ranks of one start.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from shufflenet_fn.checkpoint.format import sha256
from shufflenet_fn.config.derived import global_batch, microbatches_of, precision_name, stats_in_kernel
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.folder import ImageFolder
from shufflenet_fn.data.packed.read import PackedSplit
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run.directory import LOCK, processor, rewind_to, version_of
from shufflenet_fn.run.epochs import Epochs
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.resume import Chosen, newest_of, same_or_read
from shufflenet_fn_backends.fused.library import build, cache_folder, find_compiler
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.cpu import ALLOCATOR_SETTINGS
from shufflenet_fn_backends.support.errors import UsageError

_ROUNDING: Final = (
    "sums may be rounded otherwise, so the run goes on to an equally good result, but not to the same bytes"
)
_PIXELS: Final = (
    "images may be decoded or changed to slightly other pixels, so the run does not come to the same bytes"
)
_SAMPLES: Final = "the run goes on with other images, or with the same ones in another order"
_STATISTICS: Final = "batch norms see other groups of images, so the run goes on as with another batch size"
_IMAGE_READER: Final = "image reader"
_DATA: Final = ("training images", "training classes", "training files")
_DECODERS: Final = ("simplejpeg", "opencv-python-headless", "pillow", "numpy")


# What may differ between machines: how they meet, their devices and cores, the path of their data, and what
# only rank 0 or only the start uses. A resume may derive the last two in different ways.
_MAY_DIFFER: Final = (
    *("node_rank", "master_addr", "rdzv_endpoint", "join_timeout", "workers", "threads", "device_list"),
    *("data", "resume", "output", "profile", "max_time", "accumulate", "benchmark"),
)
_SEEN_WITHIN_S: Final = 5.0


def fingerprint_of(
    runtime: Runtime,
    settings: TrainSettings,
    world: World,
    *,
    backend: str,
    image_reader: str,
    train_set: Dataset,
) -> dict[str, Any]:
    """Return the fingerprint of this start: JSON values by name."""
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


# ----------------------------------------------------------------- since the checkpoint was written


def differences(
    manifest: Mapping[str, Any], now: Mapping[str, Any], *, epochs: Epochs, bn_stats: str
) -> list[str]:
    """Return warnings about what has changed since a checkpoint was written, one for each consequence.

    Args:
        manifest: of the checkpoint, checked.
        now: the fingerprint of this start.
        epochs: as they are counted now.
        bn_stats: the setting of this name.
    """
    stored, changed = manifest["identity"], dict[str, list[str]]()
    for name, value in now.items():
        if name in stored and stored[name] != value:
            consequence = _consequence(name, stored, now, bn_stats)
            change = _difference(name, value, f" and was {_shown(stored[name])}")
            changed.setdefault(consequence, []).append(change)
    warnings = [
        f"{'; '.join(changes)} since the checkpoint was written: {consequence}"
        for consequence, changes in changed.items()
    ]
    before = manifest["steps_per_epoch"]
    if epochs.length != before:
        done, _ = epochs.place(manifest["step"])
        warnings.append(
            f"steps_per_epoch is {epochs.length}, and was {before} when the checkpoint was written: "
            f"epochs from {done} on have the new number"
        )
    return warnings


def _consequence(name: str, stored: Mapping[str, Any], now: Mapping[str, Any], bn_stats: str) -> str:
    if name.startswith("training"):
        return _SAMPLES
    if name in _DECODERS or name == _IMAGE_READER:
        return _PIXELS
    if name == "lanes":
        return _STATISTICS
    if name != "world size" or stored.get("lanes") != now["lanes"]:
        return _ROUNDING
    kept = "the order of images, the global batch and the groups of batch norms are kept; "
    if bn_stats == "rank0":
        kept += "running statistics are now those of another share of them, as --bn-stats rank0 has it; "
    return kept + _ROUNDING


def _difference(name: str, value: Any, other: str) -> str:
    if name in ("training classes", "training files"):  # hashes
        return f"{name} differ"
    return f"{name} is {_shown(value)}{other}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "absent" if value is None else str(value) or "none"


# ------------------------------------------------------------------- the same start on all ranks


class _Start(NamedTuple):
    host: str
    settings: Mapping[str, Any]
    lock: bytes | None


def agreed(plan: RunPlan, world: World) -> RunPlan:
    """Return ``plan`` with the checkpoint that rank 0 has chosen, after a check that all have the same plan.

    After a restart, rank 0 looks for the newest good checkpoint and rewinds the run directory to it.

    Raises:
        UsageError: settings or run directories differ; raised on every rank.
    """
    _check_same_plan(plan, world)
    resume, notes = plan.resume, list[str]()
    if world.is_main and world.attempt:
        resume, skipped = newest_of(plan.run_dir, plan.resume)
        content, set_aside = rewind_to(resume and resume.content, plan.run_dir)
        resume = resume and content and resume._replace(content=content)
        where = "the beginning: there is no checkpoint yet" if resume is None else resume.checkpoint.name
        notes = [f"restart {world.attempt}: from {where}", *skipped, *set_aside]
    own = None if resume is None else Chosen(resume.checkpoint, resume.content.fingerprint)
    chosen, notes = gather((own, notes), world)[0]
    if not world.is_main:
        resume = same_or_read(resume, chosen, plan.run_dir)
    return plan._replace(resume=resume, notes=(*plan.notes, *notes))


def _check_same_plan(plan: RunPlan, world: World) -> None:
    if _one_plan_for_all(world):
        return
    own = _Start(socket.gethostname(), _compared(plan, world), _lock_of(plan.run_dir, world))
    starts = gather(own, world)
    first, names = starts[0], [_name(rank, start.host, world) for rank, start in enumerate(starts)]
    for name, start in zip(names, starts, strict=True):
        differing = [
            _difference(key, start.settings[key], f", and {_shown(value)} on {_short_name(world)}")
            for key, value in first.settings.items()
            if start.settings[key] != value
        ]
        if differing:
            raise UsageError(
                f"{name} was given other settings than {names[0]}: {'; '.join(differing)}. Give all "
                + (
                    "machines the same command, each with its own --node-rank."
                    if _several(world)
                    else "ranks the same options; where they resume a run that another process was just "
                    "ending, give the command again."
                )
            )
    if all(start.lock == first.lock for start in starts):
        return
    # On a network file system, others see a write only after a moment.
    deadline, lock = time.monotonic() + _SEEN_WITHIN_S, own.lock
    while lock != first.lock and time.monotonic() < deadline:
        time.sleep(0.2)
        lock = _lock_of(plan.run_dir, world)
    for name, seen in zip(names, gather(lock, world), strict=True):
        if seen != first.lock:
            raise UsageError(
                f"the run directory {plan.run_dir} is another folder on {name} than on {names[0]}. Every "
                "rank writes its log there, and all read checkpoints there at a resume: put it on a file "
                "system that all machines share, under the same path, and name that by --run-dir."
            )


def check_same_data(identity: Mapping[str, Any], world: World) -> list[str]:
    """Return warnings about machines on which sums may be rounded differently.

    Raises:
        UsageError: training data differ; raised on every rank.
    """
    if _one_plan_for_all(world):
        return []
    starts = gather((socket.gethostname(), dict(identity)), world)
    (first_host, first), where = starts[0], _short_name(world)
    first_name = _name(0, first_host, world)
    warnings: dict[str, str] = {}
    for rank, (host, other) in enumerate(starts):
        name = _name(rank, host, world)
        differing = {
            key: _difference(key, other.get(key), f", and {_shown(value)} on {where}")
            for key, value in first.items()
            if other.get(key) != value
        }
        if data := [text for key, text in differing.items() if key in _DATA]:
            raise UsageError(
                f"{name} has other data than {first_name}: {'; '.join(data)}. The folder that --data names "
                "must hold the same files for all."
            )
        if differing:
            text = f"{name} is not like {first_name}: {'; '.join(differing.values())}; {_ROUNDING}"
            warnings.setdefault(name, text)
    return list(warnings.values())


def _several(world: World) -> bool:
    return world.size > world.local_size


def _one_plan_for_all(world: World) -> bool:
    """Return whether our launcher gave one plan to all ranks: there is nothing to compare."""
    return world.size == 1 or (world.heartbeats is not None and not _several(world))


def _name(rank: int, host: str, world: World) -> str:
    return f"machine {rank // world.local_size} ({host})" if _several(world) else f"rank {rank}"


def _short_name(world: World) -> str:
    return "machine 0" if _several(world) else "rank 0"


def _compared(plan: RunPlan, world: World) -> dict[str, Any]:
    """Return settings by name, and the values that a resume may derive in different ways."""
    settings = plan.settings
    return {
        **{name: value for name, value in dataclasses.asdict(settings).items() if name not in _MAY_DIFFER},
        # On one machine by any name; between machines the lock is compared too.
        "run_dir": settings.run_dir if _several(world) else str(plan.run_dir.resolve()),
        "lanes": microbatches_of(settings, world.size),
        "images of an update": global_batch(settings, world.size),
        "backend": plan.backend,
    }


def _lock_of(run_dir: Path, world: World) -> bytes | None:
    """Return the lock that machine 0 wrote when it took the run directory; it differs with every start."""
    if not _several(world):
        return None
    try:
        return (run_dir / LOCK).read_bytes()
    except OSError:
        return None
