"""Plan a run: from what the user typed to a checked plan with a locked run directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shufflenet_fn.checkpoint.named_weights import Source, find_weights
from shufflenet_fn.config.derived import (
    check_values,
    global_batch,
    microbatches_of,
    num_classes_of,
    precision_name,
    stats_in_kernel,
)
from shufflenet_fn.config.options import parse_duration
from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.config.resolve import Resolved, resolve
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.mixing import check_pairs
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.distributed.world import Nodes, World
from shufflenet_fn.model.config import get_config
from shufflenet_fn.run import build
from shufflenet_fn.run.backend_choice import choose_backend, step_case
from shufflenet_fn.run.directory import (
    CONFIG,
    check_links,
    create_run_dir,
    locked,
    rewind_to,
    write_description,
)
from shufflenet_fn.run.epochs import count_epochs, rate_jump
from shufflenet_fn.run.machines import device_numbers, naming_node_rank, nodes_of, under_torchrun
from shufflenet_fn.run.resume import AUTO, Found, Lock, Resume, check_classes, find_resume, find_run, run_of
from shufflenet_fn.run.resumed_settings import resumed_settings, stored_settings
from shufflenet_fn.training.loss_scale import parse_loss_scaling
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.select import check_device_indices, select_runtime
from shufflenet_fn_backends.support.errors import UsageError

_PRECISION_OF = {torch.bfloat16: "bf16", torch.float16: "O2", None: "fp32"}


class RunPlan(NamedTuple):
    """Everything a worker process needs; picklable.

    ``devices``: the local device numbers, one process each. ``backend``: the name of the one that computes,
    chosen once for all ranks. ``notes`` and ``warnings`` are shown at the start. ``resume``: what to
    continue from. ``deadline``: time at which the run must be over, by ``time.monotonic`` of machine 0.
    ``data``: the training and validation split, listed once and handed to the ranks of this machine.
    ``pretrained``: where the weights lie that the run starts from, for a resume only their hash.
    """

    resolved: Resolved
    device: str
    devices: tuple[int, ...]
    backend: str
    run_dir: Path
    resume: Resume | None
    nodes: Nodes
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    deadline: float | None = None
    data: tuple[Dataset, Dataset] | None = None
    pretrained: Source | None = None

    @property
    def settings(self) -> TrainSettings:
        return self.resolved.settings

    @property
    def world_size(self) -> int:
        return self.settings.num_nodes * len(self.devices)


def prepare_run(
    given: Mapping[str, Any],
    *,
    preset: str | None,
    config_file: Path | None,
    argv: Sequence[str],
    held: contextlib.ExitStack,
    world: World | None = None,
) -> RunPlan:
    """Find what to resume, resolve the settings, check them, and make the run directory.

    Args:
        given: the settings that the command line gives explicitly.
        preset, config_file: where the others come from.
        argv: the command, for the record.
        held: takes the lock of the run directory, to be kept for the life of the run.
        world: set if torchrun started this process.

    Raises:
        UsageError, DeviceError, UserError: with the one thing that is wrong.
    """
    started = time.monotonic()

    # What to resume: chosen and read once, under the lock of its run directory.
    asked = _asked(given, world)
    fresh: Resolved | None = None
    if asked is None or asked == AUTO:
        fresh = resolve(given, preset=preset, config_file=config_file)
    elif preset or config_file:
        raise UsageError(
            "--resume goes on with the run's own settings, so --preset and --config have no place "
            "beside it. Single options may be changed."
        )
    rank = fresh.settings.node_rank if fresh else given.get("node_rank", 0)
    is_main = rank == 0 if world is None else world.is_main
    lock: Lock = locked if is_main else lambda run_dir: contextlib.nullcontext()
    num_nodes = fresh.settings.num_nodes if fresh else given.get("num_nodes", 1)
    node_rank_missing = world is None and "node_rank" not in given and num_nodes > 1
    found = Found()
    with naming_node_rank(node_rank_missing):
        if asked == AUTO:
            assert fresh is not None
            found = find_run(fresh.settings, lock, held)
        elif asked is not None:
            found = find_resume(Path(asked), lock, held)

    # The settings: the run's own if it is resumed.
    if found.resume is None:
        assert fresh is not None
        resolved, notes = fresh, list(found.notes)
    else:
        wanted = dict(given)
        if fresh is not None:  # --resume auto names the run directory for a start, and is no change
            wanted = {k: v for k, v in given.items() if k not in ("resume", "run_dir", "output")}
            if fresh.settings.max_time is not None:
                wanted["max_time"] = fresh.settings.max_time
        resolved, changes = resumed_settings(found.resume, wanted)
        notes = [*found.notes, *changes]
        if preset or config_file:
            notes.append("settings are the run's own; --preset and --config are not read again")
    if world is not None:
        resolved, unused = under_torchrun(resolved, given, world)
        notes += unused
    plan = plan_run(resolved, resume=found.resume, meets=world is None)
    limit = plan.settings.max_time
    deadline = None if limit is None else started + parse_duration(limit, "--max-time")

    # The run directory: made, or brought back to the checkpoint.
    warning = found.warning
    with naming_node_rank(node_rank_missing):
        run_dir = found.run_dir or _run_dir(resolved, world)
        if found.run_dir is None and is_main:
            warning = held.enter_context(lock(run_dir))
        check_links(run_dir)
    resume = found.resume
    if is_main:
        # After torchrun has restarted its processes, rank 0 first looks for a newer checkpoint (``agreed``).
        if found.run_dir is not None and (world is None or not world.attempt):
            content, set_aside = rewind_to(resume.content if resume else None, run_dir)
            resume = resume and content and resume._replace(content=content)
            notes += set_aside
        write_description(run_dir, plan.resolved, argv)
    return plan._replace(
        run_dir=run_dir,
        resume=resume,
        notes=(*plan.notes, *notes),
        warnings=plan.warnings if warning is None else (*plan.warnings, warning),
        deadline=deadline,
    )


def _asked(given: Mapping[str, Any], world: World | None) -> str | None:
    """Return ``--resume``. Processes that torchrun starts again after a failure resume without it too."""
    path: str | None = given.get("resume")
    if world is not None and world.attempt:
        if path is None:
            return AUTO
        if path != AUTO and not Path(path).exists():  # removed since, as the run has gone on
            return str(run_of(Path(path)) or path)
    return path


def plan_run(resolved: Resolved, *, resume: Resume | None = None, meets: bool = True) -> RunPlan:
    """Check ``resolved`` against this machine and its data. The run directory is not made yet.

    ``meets``: whether machines must still connect to each other; torchrun has done this if it started us.

    Raises:
        UsageError, DeviceError: with the one thing that is wrong.
    """
    runtime, reason = select_runtime(resolved.settings.device)
    resolved, precision_notes = _with_precision(resolved, runtime)
    settings = resolved.settings
    devices = device_numbers(settings, runtime.device_count())
    check_device_indices(runtime, list(devices))
    runtime.check_together(devices)
    if settings.dist_backend not in ("auto", runtime.dist_backend):
        raise UsageError(
            f"--dist-backend {settings.dist_backend} does not work with device {runtime.name}, whose "
            f"collectives are {runtime.dist_backend}. Leave the option out."
        )
    world_size = settings.num_nodes * len(devices)
    images = global_batch(settings, world_size) // microbatches_of(settings, world_size)
    check_values(images, settings)
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
    warnings += _of_float32(settings, runtime)
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
    if settings.freeze != "none" and settings.pretrained is None and resume is None:
        warnings.append(f"--freeze {settings.freeze} without --pretrained freezes random weights.")
    if settings.loss_scale != "auto":
        parse_loss_scaling(settings.loss_scale)
    if build.build_mixing(settings) is not None:
        check_pairs(global_batch(settings, world_size), world_size)
    data = build.open_data(settings, note=notes.append)
    train, content = data[0], resume.content if resume else None
    if resume is not None:
        check_classes(resume.manifest, train.classes)
    config = get_config(settings.arch, num_classes=num_classes_of(settings, train))
    epochs = count_epochs(settings, world_size, len(train), content)
    # Build once here, so that a mismatch is refused before anything is created or rewound.
    pretrained = None
    if resume is not None:
        pretrained = Source(Path(), resume.manifest.get("pretrained_sha256"))
        warnings += rate_jump(resume.manifest, stored_settings(resume), settings, epochs)
        optimizer = build.build_optimizer(settings, build.build_schedule(settings, *epochs))
        build.build_state(settings, config, optimizer, torch.device("cpu"), resume=resume.content)
    elif settings.pretrained is not None:
        pretrained = find_weights(settings.pretrained, arch=settings.arch)
        notes += pretrained.notes
        build.load_pretrained(pretrained.path, config, torch.Generator())
    return RunPlan(
        resolved=resolved,
        device=runtime.name,
        devices=devices,
        backend=chosen.name,
        run_dir=Path(),
        resume=resume,
        nodes=nodes_of(settings) if meets else Nodes(),
        notes=tuple(notes),
        warnings=tuple(warnings),
        data=data,
        pretrained=pretrained,
    )


def _with_precision(resolved: Resolved, runtime: Runtime) -> tuple[Resolved, list[str]]:
    """Resolve ``--precision auto``, and check that the device has the dtypes of the precision."""
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
    """Return warnings on training in float32 without a loss scale on this device."""
    policy, scaling = build.build_precision(settings)
    if policy.compute_dtype != torch.float32 or scaling.kind != "none":
        return []
    warning = runtime.float32_warning()
    return [] if warning is None else [f"--precision {precision_name(settings)}: {warning}."]


def _run_dir(resolved: Resolved, world: World | None) -> Path:
    settings = resolved.settings
    several = world is not None or settings.num_nodes > 1
    if several and settings.run_dir is None:
        raise UsageError(
            "a run of several machines, or under torchrun, needs --run-dir DIR: its processes cannot "
            "agree on a free name by themselves."
        )
    path = Path(str(settings.run_dir))
    if several and (world.rank if world else settings.node_rank) != 0:
        path.mkdir(parents=True, exist_ok=True)
        return path
    if world is not None and world.attempt and (path / CONFIG).exists():
        return path  # made before the failure
    return create_run_dir(resolved)
