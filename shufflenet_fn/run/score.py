"""Evaluate weights: the work behind ``shufflenet-fn evaluate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from shufflenet_fn.checkpoint.format import MANIFEST
from shufflenet_fn.checkpoint.inventory import BEST, checkpoints_of, pointed_to
from shufflenet_fn.checkpoint.read import read_manifest
from shufflenet_fn.checkpoint.torchvision import HEAD, from_torchvision
from shufflenet_fn.checkpoint.weights import Weights, read_weights
from shufflenet_fn.config.derived import eval_resize
from shufflenet_fn.config.eval_settings import EvalSettings
from shufflenet_fn.config.options import declared
from shufflenet_fn.data.bad_limit import parse_bad_limit
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.demo import ensure_demo
from shufflenet_fn.data.loader import eval_loader, prefetch_of
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.config import canonical_name, get_config
from shufflenet_fn.run import build
from shufflenet_fn.run.bad_data import bad_images_of, bad_names
from shufflenet_fn.run.evaluation import evaluate
from shufflenet_fn.run.resume import find_checkpoint
from shufflenet_fn.run.stopping import say
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_cast, tree_to
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import check_device_indices, runtime_of, select_runtime
from shufflenet_fn_backends.runtimes.settling import patiently
from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_backends.support.limits import check_threads


class EvalJob(NamedTuple):
    """A resolved evaluation; picklable. ``source`` is a weights file or a checkpoint folder."""

    source: Path
    arch: str
    data: str
    split: str
    image_size: int
    eval_resize: int
    settings: EvalSettings
    device: str
    notes: tuple[str, ...]


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
    source, manifest, notes = locate(weights)
    stored = manifest.get("settings", {})
    arch = arch_of(settings.arch, stored, source)
    data = settings.data or stored.get("data")
    if data is None:
        raise UsageError("no data: give --data DIR, a folder with train/ and val/, or --data demo.")
    size = settings.image_size or stored.get("image_size") or 224
    resize = settings.eval_resize or (None if settings.image_size else stored.get("eval_resize"))
    read = read_weights(source)
    if not set(HEAD) <= read.tensors.keys():
        raise UsageError(
            f"the weights in {source} have no classifier (fc.weight, fc.bias), so there is nothing to score. "
            f"Train one with `shufflenet-fn train --pretrained {source}`."
        )
    width = len(read.tensors["fc.weight"])
    from_torchvision(read.tensors, get_config(arch, num_classes=width))  # refused here, if it is
    notes += [
        *read.notes,
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
    )


def run_evaluation(plan: EvalJob, world: World) -> dict[str, Any]:
    """Evaluate on this rank; the same result on every rank.

    Returns:
        ``accuracy1``, ``accuracy5`` (percent), ``loss``, ``num_images``, ``bad_images`` (left out),
        ``bad_image_names``, ``seconds``, ``images_per_s``, what was evaluated, the number of
        ``classes`` of the weights and ``classes_in_data``, and whether labels were mapped by name.
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
    weights = read_weights(plan.source)
    dataset = _open(plan, weights)
    transform = EvalTransform(plan.eval_resize, plan.image_size)
    config = get_config(plan.arch, num_classes=len(dataset.classes))
    reader = choose_image_reader(settings.image_reader).reader
    variables = tree_to(tree_cast(from_torchvision(weights.tensors, config), torch.float32), device)
    predictor = build.build_predictor(
        config,
        backend=select_backend(settings.backend, runtime.name).backend,
        policy=get_policy(settings.precision),
        prepare=build.build_prepare(runtime.memory_format, device, reuse=device.type == "cpu", native=reader),
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
            native=reader,
        ) as batches:
            scores = evaluate(predictor(variables), batches, feed=feed, world=world)
        seconds = time.perf_counter() - start
        names = bad_names(bad, world)
    classes = dataset.classes
    present = [classes[label] for label in np.unique(dataset.labels)]
    return {
        **scores._asdict(),
        "bad_images": len(dataset) - scores.num_images,
        "bad_image_names": names,
        "seconds": seconds,
        "images_per_s": scores.num_images / seconds,
        "classes": len(classes),
        "classes_in_data": len(present),
        "labels_mapped": sorted(present) != list(classes),
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


def locate(weights: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The weights' file or checkpoint, its manifest (empty for a bare file), and notes."""
    if not weights.exists():
        raise UsageError(
            f"no model at {printable(weights)}. Give a run directory, a checkpoint, or a weights file."
        )
    if not weights.is_dir():
        return weights, {}, []
    if (weights / MANIFEST).exists():
        return weights, read_manifest(weights), []
    best = pointed_to(checkpoints_of(weights), BEST)
    if best is not None:
        return best, read_manifest(best), [f"weights: the run's best checkpoint, {best.name}"]
    content, notes = find_checkpoint(weights)
    return content.path, content.manifest, [*notes, f"weights: checkpoint {content.path.name}"]


def arch_of(given: str | None, stored: dict[str, Any], source: Path) -> str:
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


def _open(plan: EvalJob, weights: Weights) -> Dataset:
    """The split, with labels as the weights know them: by their class names, else as in train/."""
    root = ensure_demo() if plan.data == "demo" else Path(plan.data)
    if weights.classes is not None:
        return open_split(root, plan.split, weights.classes, "the list of the weights' classes")
    known = open_split(root, "train" if (root / "train").is_dir() else plan.split)
    width, classes = len(weights.tensors["fc.weight"]), known.classes
    if width != len(classes):
        raise UsageError(
            f"the weights in {plan.source} are of {width} classes, and {plan.data} has {len(classes)}. The "
            "file does not name its classes, so labels cannot be mapped to them. Evaluate on the data that "
            "they learned, with all classes in train/; or save the list of names under 'classes' beside the "
            f"state_dict; or train a classifier with `shufflenet-fn train --pretrained {plan.source}`."
        )
    return known if known.split == plan.split else open_split(root, plan.split, classes)
