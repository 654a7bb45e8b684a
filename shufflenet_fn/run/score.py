"""Evaluate weights: the work behind ``shufflenet-fn evaluate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shufflenet_fn.checkpoint.format import MANIFEST
from shufflenet_fn.checkpoint.inventory import BEST, checkpoints_of, pointed_to
from shufflenet_fn.checkpoint.read import verify
from shufflenet_fn.checkpoint.torchvision import from_torchvision
from shufflenet_fn.checkpoint.weights import read_state_dict
from shufflenet_fn.config.derived import eval_resize
from shufflenet_fn.config.eval_settings import EvalSettings
from shufflenet_fn.config.options import declared
from shufflenet_fn.data.bad_limit import parse_bad_limit
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.demo import ensure_demo
from shufflenet_fn.data.loader import eval_loader, prefetch_of
from shufflenet_fn.data.native.choose import choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.config import canonical_name, get_config
from shufflenet_fn.run import build
from shufflenet_fn.run.bad_data import bad_images_of, bad_names
from shufflenet_fn.run.evaluation import evaluate
from shufflenet_fn.run.listening import say
from shufflenet_fn.run.resume import find_checkpoint
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_cast, tree_to
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import (
    check_device_indices,
    runtime_of,
    select_runtime,
)
from shufflenet_fn_backends.runtimes.settling import patiently
from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_backends.support.limits import check_threads


class EvalJob(NamedTuple):
    """Everything resolved; picklable. ``source`` is a weights file or a checkpoint folder."""

    source: Path
    arch: str
    data: str
    split: str
    image_size: int
    eval_resize: int
    settings: EvalSettings
    device: str
    notes: tuple[str, ...]
    classes: tuple[str, ...] | None


def plan_evaluation(weights: Path, settings: EvalSettings) -> EvalJob:
    """Find the weights and fill in what their run knows.

    Args:
        weights: a weights file, a checkpoint, or a run directory (its best checkpoint).
        settings: what the user gave.

    Raises:
        UsageError, DeviceError, UserError: with the one thing that is wrong.
    """
    for item in declared(EvalSettings):
        item.option.check(item.name, getattr(settings, item.name))
    parse_bad_limit(settings.max_bad)
    policy = get_policy(settings.precision)
    runtime, reason = select_runtime(settings.device)
    runtime.check_dtypes(policy.dtypes, f"--precision {settings.precision}")
    check_device_indices(runtime, list(range(settings.devices)))
    source, manifest, notes = _locate(weights)
    stored = manifest.get("settings", {})
    arch = _arch(settings.arch, stored, source)
    data = settings.data or stored.get("data")
    if data is None:
        raise UsageError("no data: give --data DIR, a folder with train/ and val/, or --data demo.")
    size = settings.image_size or stored.get("image_size") or 224
    resize = settings.eval_resize or (None if settings.image_size else stored.get("eval_resize"))
    notes += [
        reason,
        select_backend(settings.backend, runtime.name).reason,
        choose_image_reader(settings.image_reader).reason,
    ]
    return EvalJob(
        source=source,
        arch=arch,
        data=data,
        split=settings.split,
        image_size=size,
        eval_resize=eval_resize(size, resize),
        settings=settings,
        device=runtime.name,
        notes=tuple(notes),
        classes=tuple(manifest["classes"]) if manifest else None,
    )


def run_evaluation(plan: EvalJob, world: World) -> dict[str, Any]:
    """Evaluate on this rank; the same result on every rank.

    Returns:
        ``accuracy1``, ``accuracy5`` (percent), ``loss``, ``num_images``, ``bad_images`` (left out),
        ``bad_image_names``, ``seconds``, ``images_per_s``, and what was evaluated.
    """
    settings = plan.settings
    runtime = runtime_of(plan.device)
    runtime.prepare()
    settling = runtime.settling if world.heartbeats is None else None
    patiently(lambda: runtime.set_device(world.local_rank), settling, say)
    cores = max(1, usable_cores() // world.local_size)
    check_threads(cores + loader_threads(settings.workers, world.local_size))
    torch.set_num_threads(cores)
    runtime.tune()
    device = runtime.device(world.local_rank)
    dataset = _open(plan)
    transform = EvalTransform(plan.eval_resize, plan.image_size)
    state_dict = read_state_dict(plan.source)
    classes = _head_width(state_dict, plan.source)
    if classes < len(dataset.classes):
        raise UsageError(
            f"the weights in {plan.source} know {classes} classes, but {plan.data} has "
            f"{len(dataset.classes)}. They belong to other data."
        )
    config = get_config(plan.arch, num_classes=classes)
    variables = tree_to(tree_cast(from_torchvision(state_dict, config), torch.float32), device)
    predictor = build.build_predictor(
        config,
        backend=select_backend(settings.backend, runtime.name).backend,
        policy=get_policy(settings.precision),
        prepare=build.build_prepare(runtime.memory_format, device, reuse=device.type == "cpu"),
    )
    threads = loader_threads(settings.workers, world.local_size)
    layout = Layout(settings.batch_size, plan.image_size)
    feed = DeviceFeed(device, layout, ahead=prefetch_of(threads))
    bad = bad_images_of(dataset, on_bad_image=settings.on_bad_image, max_bad=settings.max_bad)
    with process_group(world, runtime.dist_backend):
        start = time.perf_counter()
        with eval_loader(
            dataset,
            transform,
            batch_size=settings.batch_size,
            rank=world.rank,
            world_size=world.size,
            threads=threads,
            buffers=feed.ready(),
            bad_images=bad,
            native=choose_image_reader(settings.image_reader).reader,
        ) as batches:
            scores = evaluate(predictor(variables), batches, feed=feed, world=world)
        seconds = time.perf_counter() - start
        names = bad_names(bad, world)
    return {
        **scores._asdict(),
        "bad_images": len(dataset) - scores.num_images,
        "bad_image_names": names,
        "seconds": seconds,
        "images_per_s": scores.num_images / seconds,
        "weights": str(plan.source),
        "arch": plan.arch,
        "data": plan.data,
        "split": plan.split,
        "image_size": plan.image_size,
        "eval_resize": plan.eval_resize,
        "precision": settings.precision,
        "device": plan.device,
        "devices": world.size,
    }


def _locate(weights: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The weights' file or checkpoint, its manifest (empty for a bare file), and notes."""
    if not weights.is_dir():
        return weights, {}, []
    if (weights / MANIFEST).exists():
        return weights, verify(weights), []
    best = pointed_to(checkpoints_of(weights), BEST)
    if best is not None:
        return best, verify(best), [f"weights: the run's best checkpoint, {best.name}"]
    content, notes = find_checkpoint(weights)
    return content.path, content.manifest, [*notes, f"weights: checkpoint {content.path.name}"]


def _arch(given: str | None, stored: dict[str, Any], source: Path) -> str:
    if given is None and "arch" not in stored:
        raise UsageError(
            f"{source} does not say which architecture it is of: give --arch, such as --arch x1_0."
        )
    if given is None:
        return str(stored["arch"])
    arch = canonical_name(given)
    if stored.get("arch", arch) != arch:
        raise UsageError(
            f"the checkpoint {source} is of {stored['arch']}, not of {arch}. Leave --arch out."
        )
    return arch


def _open(plan: EvalJob) -> Dataset:
    """The split, with labels as the weights know them: their run's classes, else those of train/."""
    root = ensure_demo() if plan.data == "demo" else Path(plan.data)
    classes = plan.classes
    if classes is None:
        train = open_split(root, "train")
        if plan.split == "train":
            return train
        classes = train.classes
    return open_split(root, plan.split, classes)


def _head_width(state_dict: dict[str, torch.Tensor], source: Path) -> int:
    for key, value in state_dict.items():
        if key.removeprefix("module.") == "fc.weight":
            return value.shape[0]
    raise UsageError(
        f"{source} has no 'fc.weight': it is not a ShuffleNetV2 of torchvision's layout."
    )
