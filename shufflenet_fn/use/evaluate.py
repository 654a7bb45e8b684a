"""Evaluate weights: the work behind ``shufflenet-fn evaluate``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from shufflenet_fn.config.options import check_options
from shufflenet_fn.config.settings import EvalSettings
from shufflenet_fn.data.bad_images import parse_bad_limit
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import eval_loader, prefetch_of
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.distributed.group import process_group
from shufflenet_fn.distributed.world import World
from shufflenet_fn.run import build
from shufflenet_fn.run.evaluation import evaluate
from shufflenet_fn.run.reporting import bad_names
from shufflenet_fn.run.stopping import say
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.run.transfer import DeviceFeed
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.use.engines import choose_engine
from shufflenet_fn.use.model import Model, open_labelled, open_model
from shufflenet_fn.use.predict import engine_logits, torch_logits
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.base import patiently
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import check_device_indices, runtime_of, select_runtime
from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_backends.support.limits import check_threads


class EvalPlan(NamedTuple):
    """A resolved evaluation; picklable."""

    model: Model
    data: str
    settings: EvalSettings
    device: str
    engine: str
    notes: tuple[str, ...]


def plan_evaluation(weights: str | os.PathLike[str], settings: EvalSettings) -> EvalPlan:
    """Open the weights and fill in what their run knows.

    Args:
        weights: a weights file, a checkpoint, a run directory (its best checkpoint), or a name
            (``find_weights``).
        settings: what the user gave.

    Raises:
        UsageError, DeviceError, UserError: with the one thing that is wrong.
    """
    check_options(settings)
    parse_bad_limit(settings.max_bad)
    policy = get_policy(settings.precision)
    runtime, reason = select_runtime(settings.device)
    runtime.check_dtypes(policy.dtypes, f"--precision {settings.precision}")
    check_device_indices(runtime, list(range(settings.devices)))
    model = open_model(
        weights, arch=settings.arch, image_size=settings.image_size, resize=settings.eval_resize
    )
    data = settings.data or model.data
    if data is None:
        raise UsageError("no data: give --data DIR, a folder with train/ and val/, or --data demo.")
    asks_torch = settings.backend != "auto" or settings.precision != "fp32"
    if settings.engine == "onnxruntime" and (asks_torch or runtime.name != "cpu"):
        raise UsageError(
            "--engine onnxruntime computes fp32 on the CPU: leave out --device, --precision and --backend, "
            "or give --engine torch."
        )
    engine, why = ("torch", "") if asks_torch else choose_engine(settings.engine, runtime.name)
    computes = [f"engine {engine}: {why}"] if why else []
    if engine == "torch":
        computes.append(select_backend(settings.backend, runtime.name).reason)
    notes = (*model.notes, reason, *computes, choose_image_reader(settings.image_reader).reason)
    return EvalPlan(model, data, settings, runtime.name, engine, notes)


def run_evaluation(plan: EvalPlan, world: World) -> dict[str, Any]:
    """Evaluate on this rank; the same result on every rank.

    Returns:
        ``accuracy1``, ``accuracy5`` (percent), ``loss``, ``num_images``, ``bad_images`` (left out),
        ``bad_image_names``, ``seconds``, ``images_per_s``, what was evaluated, the number of
        ``classes`` of the weights and ``classes_in_data``, and whether labels were mapped by name.
    """
    model, settings = plan.model, plan.settings
    runtime = runtime_of(plan.device)
    runtime.prepare()
    settling = runtime.settling if world.heartbeats is None else None
    patiently(lambda: runtime.set_device(world.local_rank), settling, say)
    cores = max(1, usable_cores() // world.local_size)
    threads = loader_threads(settings.workers, world.local_size)
    check_threads(cores + threads)
    torch.set_num_threads(cores)
    runtime.tune()
    device = runtime.device(world.local_rank)
    dataset = open_labelled(model, plan.data, settings.split)
    reader = choose_image_reader(settings.image_reader).reader
    predict: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float
    compute = None
    if plan.engine == "torch":
        predict = torch_logits(model, runtime, device, reader, settings.backend, settings.precision)
    else:
        compute = engine_logits(model, plan.engine)  # in each loader thread, of the batches that it reads
    layout = Layout(settings.batch_size, model.size)
    feed = DeviceFeed(device, layout, ahead=prefetch_of(threads))
    bad = build.bad_images_of(dataset, settings)
    with process_group(world, runtime.dist_backend):
        start = time.perf_counter()
        with eval_loader(
            dataset,
            EvalTransform(model.resize, model.size),
            batch_size=settings.batch_size,
            rank=world.rank,
            world_size=world.size,
            threads=threads,
            buffers=feed.ready(),
            bad_images=bad,
            native=reader,
            compute=compute,
        ) as batches:
            scores = evaluate(predict, batches, feed=feed, world=world)
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
        "weights": str(model.path),
        "arch": model.arch,
        "data": plan.data,
        "split": settings.split,
        "image_size": model.size,
        "eval_resize": model.resize,
        "precision": settings.precision,
        "engine": plan.engine,
        "device": plan.device,
        "devices": world.size,
    }
