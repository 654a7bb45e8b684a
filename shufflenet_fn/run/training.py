"""Build the objects that the training loop uses from a plan."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from shufflenet_fn.checkpoint.format import GENERATORS, restore_generators
from shufflenet_fn.checkpoint.inventory import BEST, checkpoints_of, pointed_to
from shufflenet_fn.config.derived import (
    global_batch,
    max_bad_steps,
    microbatches_per_device,
    num_classes_of,
    stats_in_kernel,
)
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.bad_images import BadImages
from shufflenet_fn.data.buffers import BatchBuffers, Layout
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.loader import BatchIterator, prefetch_of, train_loader
from shufflenet_fn.data.native.reader import NativeReader, choose_image_reader
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.distributed.reduce import mean_over_ranks
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.channel_order import in_order_of, to_canonical
from shufflenet_fn.model.config import ShuffleNetConfig, frozen_parts, get_config
from shufflenet_fn.run import build
from shufflenet_fn.run.bottleneck import Bottleneck
from shufflenet_fn.run.epochs import Epochs, count_epochs
from shufflenet_fn.run.events import Reporter
from shufflenet_fn.run.fingerprint import differences, fingerprint_of
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.run.stopping import Stopping
from shufflenet_fn.run.timing import EpochSums, Scores, StepClock, TimeMeter
from shufflenet_fn.run.transfer import READ_BACK, DeviceFeed
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import GradientTransformation
from shufflenet_fn.training.schedules import Schedule
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.training.step import Reduce, TrainStep, make_train_step, no_reduce
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.select import runtime_of


class Best(NamedTuple):
    """The best evaluation so far."""

    accuracy1: float
    epoch: int


@dataclasses.dataclass
class Training:
    """Objects and state of the training loop. The loop replaces ``state`` and the fields after it.

    ``stop``: the number of updates at which this start ends.

    ``state`` is kept in the layout that trains fastest: in the backend's channel order, and flattened into a
    few buffers on devices where kernel launches are expensive.
    """

    plan: RunPlan
    world: World
    reporter: Reporter
    stopping: Stopping
    runtime: Runtime
    device: torch.device
    config: ShuffleNetConfig
    train_set: Dataset
    eval_set: Dataset
    bad_train: BadImages | None
    bad_eval: BadImages | None
    train_transform: TrainTransform
    eval_transform: EvalTransform
    image_reader: NativeReader | None
    feed: DeviceFeed
    eval_feed: DeviceFeed
    threads: int
    epochs: Epochs
    stop: int
    global_batch: int
    schedule: Schedule
    scaling: LossScaling
    max_bad_steps: int
    make_step: Callable[[GradientTransformation], TrainStep]
    train_step: TrainStep
    predictor: build.Predictor
    permuted: bool
    identity: dict[str, Any]
    clock: StepClock
    waits: TimeMeter
    state: TrainState
    best: Best | None = None
    last: Scores | None = None
    bottleneck: Bottleneck | None = None
    skipped_in_a_row: int = 0
    unfinished: EpochSums | None = None

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the update ``step``."""
        return float(self.schedule(torch.tensor(step)))

    def canonical(self, state: TrainState) -> TrainState:
        """Return ``state`` as a tree in canonical channel order, as checkpoints have it."""
        plain = unflatten_state(state)
        return to_canonical(self.config, plain) if self.permuted else plain

    def take_unfinished(self) -> EpochSums:
        """Return the sums of the epoch that the run was resumed in; empty ones for later epochs."""
        sums, self.unfinished = self.unfinished, None
        return sums or EpochSums()


def build_training(plan: RunPlan, world: World, reporter: Reporter, stopping: Stopping) -> Training:
    """Build everything that is needed before the first step; report on rank 0 what was decided."""
    settings = plan.settings
    runtime = runtime_of(plan.device)
    device = runtime.device(plan.devices[world.local_rank])
    train_set, eval_set = plan.data or build.open_data(settings, note=reporter.note)
    config = get_config(settings.arch, num_classes=num_classes_of(settings, train_set))
    resume = plan.resume.content if plan.resume else None
    epochs = count_epochs(settings, world.size, len(train_set), resume)
    total = epochs.start(settings.epochs)
    policy, scaling = build.build_precision(settings)
    schedule = build.build_schedule(settings, *epochs)
    optimizer = build.build_optimizer(settings, schedule)

    # The state: fresh, pretrained or that of a checkpoint.
    # Training does not use these generators, but a user's loss may; some devices seed theirs by the clock.
    torch.manual_seed(settings.seed)
    pretrained = plan.pretrained.path if plan.pretrained else None
    state, notes = build.build_state(
        settings, config, optimizer, device, resume=resume, pretrained=pretrained
    )
    reader = choose_image_reader(settings.image_reader).reader
    identity = fingerprint_of(
        runtime,
        settings,
        world,
        backend=plan.backend,
        image_reader="python" if reader is None else "native",
        train_set=train_set,
    )
    warnings = list(plan.warnings)
    if plan.resume is not None:
        warnings += differences(plan.resume.manifest, identity, epochs=epochs, bn_stats=settings.bn_stats)
        restore_generators(plan.resume.content.files.get(GENERATORS, {}), runtime)
        plan.resume.content.release()
    if world.is_main:
        for note in (*plan.notes, *notes):
            reporter.note(note)
        for warning in warnings:
            reporter.warning(warning)
    frozen = frozen_parts(settings.freeze)
    backend = get_backend(plan.backend)
    state, computing = in_order_of(config, state, backend)
    if runtime.flat_state:
        state = flatten_state(state, frozen)

    # How batches come to the device.
    batch = global_batch(settings, world.size)
    threads = loader_threads(settings.workers, world.local_size)
    train_transform, eval_transform = build.build_transforms(settings)
    memory_formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    prepare = build.build_prepare(
        memory_formats.get(settings.memory_format, runtime.memory_format),
        device,
        # A step is done with a microbatch's images before it prepares the next. A compiled one allocates.
        reuse=device.type == "cpu" and not settings.compile,
        native=reader,
    )
    bad_file = plan.run_dir / f"bad_images{f'.rank{world.rank}' if world.rank else ''}.jsonl"

    def feed(images: int) -> DeviceFeed:
        return DeviceFeed(device, Layout(images, settings.image_size), ahead=prefetch_of(threads))

    # The step.
    clock = StepClock(device, READ_BACK)
    max_bad = max_bad_steps(settings, scaling)
    reduce: Reduce = no_reduce
    if world.size > 1:
        timing = stopping.waiting_and(clock.collective)
        reduce = mean_over_ranks(world.size, world.rank, bn_stats=settings.bn_stats, timing=timing)
    make_step = functools.partial(
        make_train_step,
        config,
        policy=policy,
        backend=computing,
        frozen=frozen,
        label_smoothing=settings.label_smoothing,
        gradients=grads_by_engine,
        compiler=torch.compile if settings.compile else lambda function: function,
        microbatches=microbatches_per_device(settings, world.size),
        prepare=prepare,
        stats_in_kernel=stats_in_kernel(settings, runtime),
    )
    run = Training(
        plan=plan,
        world=world,
        reporter=reporter,
        stopping=stopping,
        runtime=runtime,
        device=device,
        config=config,
        train_set=train_set,
        eval_set=eval_set,
        bad_train=build.bad_images_of(train_set, settings, bad_file),
        bad_eval=build.bad_images_of(eval_set, settings, bad_file),
        train_transform=train_transform,
        eval_transform=eval_transform,
        image_reader=reader,
        feed=feed(batch // world.size),
        eval_feed=feed(eval_batch_size(settings, world)),
        threads=threads,
        epochs=epochs,
        stop=min(total, settings.max_steps or total),
        global_batch=batch,
        schedule=schedule,
        scaling=scaling,
        max_bad_steps=max_bad,
        make_step=make_step,
        train_step=make_step(
            optimizer,
            loss_scaling=scaling,
            ema_decay=settings.ema_decay,
            overflow=runtime.overflow(),
            # The only bad step of a run is undone by the host, which keeps the state before it.
            skip_bad=max_bad > 1,
            reduce=reduce,
        ),
        predictor=build.build_predictor(config, backend=computing, policy=policy, prepare=prepare),
        permuted=computing is not backend,
        identity=identity,
        clock=clock,
        waits=TimeMeter(),
        state=state,
    )
    if plan.resume is not None:
        _restore(run, plan.resume.manifest)
    return run


def _restore(run: Training, manifest: Mapping[str, Any]) -> None:
    """Set what the manifest of a checkpoint says of the run beside its state."""
    best, scores, unfinished = manifest["best"], manifest["scores"], manifest["unfinished"]
    run.skipped_in_a_row = manifest["skipped_in_a_row"]
    if unfinished:
        run.unfinished = EpochSums(**unfinished)
    if best and pointed_to(checkpoints_of(run.plan.run_dir), BEST) is not None:
        run.best = Best(**best)
    if scores and scores.keys() == set(Scores._fields):
        numbers: dict[str, Any] = {key: math.nan if value is None else value for key, value in scores.items()}
        if all(type(value) in (int, float) for value in numbers.values()):
            run.last = Scores(**numbers)


def eval_batch_size(settings: TrainSettings, world: World) -> int:
    """Return the images per batch of one rank's share of the evaluation."""
    return max(1, settings.batch_size // world.size)


def loader_threads(workers: int | None, local_size: int) -> int:
    """Return the loader threads of one process: its share of ``--workers``, or of the cores if not given.

    A value above the number of cores is allowed, because threads that wait for a slow disk need no core.
    """
    if workers is None:
        return max(1, usable_cores() // local_size)
    return math.ceil(workers / local_size)


def training_batches(
    run: Training, world: World, steps: range, *, threads: int, buffers: BatchBuffers | None = None
) -> BatchIterator:
    """Return the batches of ``steps`` for the rank of ``world``. See ``train_loader``."""
    settings = run.plan.settings
    return train_loader(
        run.train_set,
        run.train_transform,
        augment=build.build_augmentation(settings),
        mixing=build.build_mixing(settings),
        repeats=settings.repeats,
        seed=settings.seed,
        global_batch=run.global_batch,
        rank=world.rank,
        world_size=world.size,
        start_step=steps.start + run.epochs.shift,
        stop_step=steps.stop + run.epochs.shift,
        threads=threads,
        bad_images=run.bad_train,
        buffers=buffers,
        native=run.image_reader,
    )
