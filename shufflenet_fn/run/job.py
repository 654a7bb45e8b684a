"""What to run, decided and checked before any process is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from shufflenet_fn.checkpoint.format import MANIFEST
from shufflenet_fn.checkpoint.inventory import checkpoints_of, newest_good
from shufflenet_fn.checkpoint.read import read_manifest, verify
from shufflenet_fn.data.augment.mixing import check_pairs
from shufflenet_fn.data.demo import ensure_demo
from shufflenet_fn.data.listing_cache import Note, silent
from shufflenet_fn.data.native.choose import choose_image_reader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.samples import Samples
from shufflenet_fn.data.schedule import steps_per_epoch
from shufflenet_fn.distributed.world import DEFAULT_PORT, Nodes
from shufflenet_fn.precision import get_policy
from shufflenet_fn.run import build
from shufflenet_fn.run.backend_choice import choose_backend
from shufflenet_fn.run.build_augment import build_mixing
from shufflenet_fn.run.derived import (
    global_batch,
    lanes_of,
    num_classes_of,
    precision_name,
    stats_in_kernel,
)
from shufflenet_fn.run.directory import CONFIG
from shufflenet_fn.run.kept import keep_backend, keep_choices
from shufflenet_fn.run.measured import step_case
from shufflenet_fn.run.options import convert, declared
from shufflenet_fn.run.presets import PRESETS
from shufflenet_fn.run.resolve import Resolved, checked, settle_conflicts
from shufflenet_fn.run.resumption import check_classes, checked_manifest
from shufflenet_fn.run.settings import TrainSettings, renamed
from shufflenet_fn.training.loss_scale import parse_loss_scaling
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.select import check_device_indices, select_runtime
from shufflenet_fn_backends.support.errors import UsageError, UserError

_PORTS: Final = 65535
_PRECISION_OF = {torch.bfloat16: "bf16", torch.float16: "O2", None: "fp32"}


class Job(NamedTuple):
    """Everything a worker process needs; picklable.

    ``devices``: the local device numbers, one process each. ``backend``: the name of the one that computes,
    chosen once for all ranks. ``notes`` and ``warnings`` are shown at the start. ``resume``: the checkpoint
    to start from. ``deadline``: by ``time.monotonic`` of machine 0, when the run has to be over.
    """

    resolved: Resolved
    device: str
    devices: tuple[int, ...]
    backend: str
    run_dir: Path
    resume: Path | None
    nodes: Nodes
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    deadline: float | None = None

    @property
    def settings(self) -> TrainSettings:
        return self.resolved.settings

    @property
    def world_size(self) -> int:
        return self.settings.num_nodes * len(self.devices)


def plan_job(resolved: Resolved, *, resume: Path | None = None, meets: bool = True) -> Job:
    """Check ``resolved`` against this machine and its data. The run directory is not made yet.

    With ``resume``, a checkpoint, the weights are its: those that the run once started from may be gone.
    ``meets``: several machines have to be brought together, which torchrun has done if it started this.

    Raises:
        UsageError, DeviceError: with the one thing that is wrong.
    """
    runtime, reason = select_runtime(resolved.settings.device)
    resolved, precision_notes = _with_precision(resolved, runtime)
    settings = resolved.settings
    devices = _device_numbers(settings, runtime.device_count())
    check_device_indices(runtime, list(devices))
    runtime.check_together(devices)
    if settings.dist_backend not in ("auto", runtime.dist_backend):
        raise UsageError(
            f"--dist-backend {settings.dist_backend} does not work with device {runtime.name}, whose "
            f"collectives are {runtime.dist_backend}. Leave the option out."
        )
    world_size = settings.num_nodes * len(devices)
    images = global_batch(settings, world_size) // lanes_of(settings, world_size)
    chosen = choose_backend(
        settings.backend,
        step_case(
            runtime,
            arch=settings.arch,
            precision=precision_name(settings),
            batch_per_card=images,
            image_size=settings.image_size,
        ),
        compiled=settings.compile,
        resumed=resume is not None,
    )
    if settings.running_stats == "auto" and chosen.running_stats != "auto":
        settings = replace(settings, running_stats=chosen.running_stats)
        origin = {**resolved.origin, "running_stats": "a kept measurement"}
        resolved = resolved._replace(settings=settings, origin=origin)
    stats_in_kernel(settings, runtime)  # refuses what cannot be
    notes = [
        reason,
        chosen.reason,
        *chosen.notes,
        choose_image_reader(settings.image_reader).reason,
        *precision_notes,
    ]
    warnings = []
    if settings.compile and runtime.compiling is not None:
        warnings.append(runtime.compiling)
    warnings.extend(_of_float32(settings, runtime))
    if runtime.shares and len(devices) > runtime.device_count():
        warnings.append(
            f"{len(devices)} processes share {runtime.device_count()} cores; this is slower than "
            f"--devices {runtime.device_count()}."
        )
    preset = PRESETS.get(resolved.preset or "")
    if settings.num_nodes == 1 and (settings.rdzv_endpoint or settings.master_addr):
        option = "--rdzv-endpoint" if settings.rdzv_endpoint else "--addr"
        notes.append(f"{option} is not used by one machine; several are --nnodes N on each of them")
    if preset is not None:
        notes.append(f"preset {resolved.preset}: {preset.source}")
        if preset.warning:
            warnings.append(f"preset {resolved.preset}: {preset.warning}")
    if settings.warm_up_epochs >= settings.epochs:
        warnings.append(
            f"the warm-up of {settings.warm_up_epochs} epochs ({resolved.origin['warm_up_epochs']}) is "
            f"not over when the run is: the learning rate does not reach {settings.learning_rate:g}."
        )
    if settings.loss_scale != "auto":
        parse_loss_scaling(settings.loss_scale)
    if build_mixing(settings) is not None:
        check_pairs(global_batch(settings, world_size), world_size)
    train, _ = open_data(settings, note=notes.append)
    if resume is not None:
        check_classes(checked_manifest(read_manifest(resume), resume), train.classes)
    steps = steps_per_epoch(len(train), global_batch(settings, world_size))
    config = build.build_config(settings, num_classes_of(settings, train))
    # Read once here, so that what does not fit is refused before anything is made, or a run brought back.
    if resume is not None:
        optimizer = build.build_optimizer(settings, build.build_schedule(settings, steps))
        build.build_state(settings, config, optimizer, torch.device("cpu"), resume=resume)
    elif settings.pretrained is not None:
        build.load_pretrained(Path(settings.pretrained), config, torch.Generator())
    return Job(
        resolved=resolved,
        device=runtime.name,
        devices=devices,
        backend=chosen.name,
        run_dir=Path(),
        resume=resume,
        nodes=_nodes(settings) if meets else Nodes(),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _with_precision(resolved: Resolved, runtime: Runtime) -> tuple[Resolved, list[str]]:
    """``--precision auto`` made out, and all dtypes of the precision checked against the device."""
    settings, notes = resolved.settings, []
    if settings.precision == "auto":
        half = runtime.half()
        name = _PRECISION_OF[half.dtype]
        notes = [f"precision {name}: auto, {half.reason}"]
        settings = replace(settings, precision=name)
        resolved = resolved._replace(settings=settings)
    name = precision_name(settings)
    option = f"--precision {name}" if settings.precision else f"--amp --opt-level {name}"
    runtime.check_dtypes(get_policy(name).dtypes, option)
    return resolved, notes


def _of_float32(settings: TrainSettings, runtime: Runtime) -> list[str]:
    """What to know before training in float32 without a loss scale on this device."""
    policy, scaling = build.build_precision(settings)
    if policy.compute_dtype != torch.float32 or scaling.kind != "none":
        return []
    warning = runtime.float32_warning()
    return [] if warning is None else [f"--precision {precision_name(settings)}: {warning}."]


def open_data(settings: TrainSettings, *, note: Note = silent) -> tuple[Samples, Samples]:
    """The training and validation split that ``--data`` names; ``note`` as for ``open_train_val``."""
    if settings.data is None:
        raise UsageError(
            "no training data: give --data DIR, a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or "
            "--data demo (or --preset demo) for the built-in set."
        )
    root = ensure_demo() if settings.data == "demo" else Path(settings.data)
    return open_train_val(root, note=note)


def resumed(path: Path, given: Mapping[str, Any]) -> tuple[Resolved, Path, Path | None, list[str]]:
    """Settings, checkpoint, run directory and notes for ``--resume path``.

    ``path`` is a run directory or one of its checkpoints. The run's own settings are used again; what
    the command line gives explicitly (``given``) replaces them and is named in the notes. Of a run
    directory the newest undamaged checkpoint is taken. A checkpoint that lies in no run directory, such as
    a copy, starts one of its own: then the directory is ``None``.

    Raises:
        UsageError: nothing to resume there, or a checkpoint of another architecture.
        UserError: all checkpoints are damaged.
    """
    checkpoint, manifest, notes = find_checkpoint(path)
    checked_manifest(manifest, checkpoint)
    stored, origin = renamed(manifest["settings"]), renamed(manifest["origin"])
    run_dir = path if checkpoints_of(path) == checkpoint.parent else run_of(checkpoint)
    if run_dir is None:
        stored["run_dir"] = None
        notes.append(f"{checkpoint} lies in no run directory, so this run has one of its own")
    for name in ("run_dir", "output"):
        if name in given and run_dir is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} has no place beside --resume: the run goes on in its own "
                f"directory. To start another run from these weights, use --pretrained {path}."
            )
    settings = checked(
        TrainSettings(
            **{
                item.name: convert(item, stored[item.name], str(checkpoint / MANIFEST))
                for item in declared(TrainSettings)
                if item.name in stored
            }
        )
    )
    # A limit of one start is not part of the recipe: a run cut short by it goes on to its end.
    settings = replace(settings, max_steps=None, profile=None, max_time=None)
    wanted = settle_conflicts({key: value for key, value in given.items() if key != "resume"})
    changed = checked(replace(settings, **wanted))
    if changed.arch != settings.arch:
        raise UsageError(
            f"the checkpoint {checkpoint} is of {settings.arch}, not of {changed.arch}. Leave --arch out, "
            "or start a new run with --arch and without --resume."
        )
    for name in wanted:
        if getattr(changed, name) != getattr(settings, name):
            notes.append(
                f"{name} changes at the resume from {getattr(settings, name)!r} to "
                f"{getattr(changed, name)!r}"
            )
            origin[name] = "command line, at the resume"
    resolved, kept = keep_choices(Resolved(changed, origin, manifest["preset"]), manifest, wanted)
    resolved, backend = keep_backend(
        resolved, manifest, select_runtime(resolved.settings.device)[0].name
    )
    notes += [*kept, *backend]
    return resolved, checkpoint, run_dir, notes


def run_of(checkpoint: Path) -> Path | None:
    """The run directory that ``checkpoint`` lies in, below ``checkpoints/`` or as a dump."""
    whole = checkpoint if len(checkpoint.parts) > 2 else checkpoint.resolve()
    run_dir = whole.parent.parent
    return run_dir if (run_dir / CONFIG).exists() else None


def find_checkpoint(path: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest undamaged checkpoint of a run directory, or ``path`` itself if it is a checkpoint.

    Returns its path, its manifest, and a note on every one that was passed over.
    """
    if not path.is_dir():
        raise UsageError(f"nothing to resume at {path}: there is no such directory.")
    if (path / MANIFEST).exists():
        path = path.resolve() if path.is_symlink() else path
        return path, verify(path), []
    folder = checkpoints_of(path)
    checkpoint, manifest, notes = newest_good(folder)
    if checkpoint is not None:
        return checkpoint, manifest, notes
    if notes:
        raise UserError(
            f"no checkpoint in {folder} can be used. {' '.join(notes)} To start from the beginning, choose "
            "another --run-dir."
        )
    if (path / CONFIG).exists():
        raise UsageError(
            f"nothing to resume at {path}: the run there has no checkpoint yet. Give the command that "
            f"started it again, with --run-dir {path} --resume auto."
        )
    raise UsageError(
        f"nothing to resume at {path}: it is neither a checkpoint nor a run directory with one "
        "below checkpoints/."
    )


def _nodes(settings: TrainSettings) -> Nodes:
    if settings.num_nodes == 1:
        return Nodes()
    if settings.max_restarts:
        raise UsageError(
            f"--max-restarts {settings.max_restarts} works on one machine only, and --nnodes is "
            f"{settings.num_nodes}. Use --max-restarts 0, and after a failure start the same command again "
            "on all machines with --resume auto, as a scheduler does."
        )
    endpoint = (settings.rdzv_endpoint or "").removeprefix("tcp://")
    if not endpoint and settings.master_addr:
        endpoint = f"{settings.master_addr}:{DEFAULT_PORT}"
    if not endpoint:
        raise UsageError(
            f"--nnodes {settings.num_nodes} needs to know where the machines meet: give "
            "--rdzv-endpoint HOST:PORT (or --addr HOST) of machine 0 on all of them."
        )
    form = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):(\d{1,5})", endpoint)
    if form is None or not 1 <= int(form[2]) <= _PORTS:
        raise UsageError(
            f"--rdzv-endpoint {endpoint!r} is not HOST:PORT. Give machine 0's name or address and a free "
            f"port on it, 1 to {_PORTS}, such as host0:29500."
        )
    return Nodes(settings.num_nodes, settings.node_rank, endpoint, settings.join_timeout)


def _device_numbers(settings: TrainSettings, available: int) -> tuple[int, ...]:
    if settings.device_list is not None:
        try:
            numbers = tuple(int(part) for part in settings.device_list.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
            raise UsageError(
                f"--device-list {settings.device_list!r} must be different device numbers with commas "
                "between them, such as 0,1,2."
            )
        return numbers
    if settings.devices is None and settings.multiprocessing_distributed:
        return tuple(range(max(1, available)))
    return tuple(range(settings.devices or 1))
