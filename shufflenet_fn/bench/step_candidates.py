"""The candidates of ``bench step``: training steps that return their loss and do not wait for the device."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from shufflenet_fn.bench.peers import (
    OURS,
    OURS_COMPILED,
    AscendShuffleNet,
    Field,
    Peer,
    available,
    peers,
    settled,
    torchvision_model,
    torchvision_models,
)
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.distributed.reduce import mean_over_ranks
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import ShuffleNetConfig, get_config
from shufflenet_fn.model.variables import init
from shufflenet_fn.training.flat_state import flatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.schedules import Schedule, constant, epoch_cosine
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags, no_reduce
from shufflenet_fn.tree import tree_to
from shufflenet_fn_backends.names import STATS_IN_STEP, suggestion
from shufflenet_fn_backends.registry import get_backend, select_backend
from shufflenet_fn_backends.runtimes import cpu
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.support.errors import UsageError

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4
PEERS = peers(folding=False)
ORIGINAL: Final = "original's shape"
"""The peer on an NPU: ``AscendShuffleNet`` with ``torch.optim.SGD``."""

_COMPILED: Final = " compiled"
_RECOMPILE_LIMIT: Final = 64


VARIANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "reference": ("cuda", "npu"),
    "native": ("cuda", "npu"),
    "gather": ("cuda", "npu"),
    # On an NPU, routed is npu under another name.
    "routed": ("cuda",),
    "npu": ("npu",),
    f"gather{STATS_IN_STEP}": ("npu",),
    f"npu{STATS_IN_STEP}": ("npu",),
}
"""Variants of our step, and the device types that each is measured on. A kept result may name any of them.

A variant is a backend. Its kernels update the running statistics if they can; with ``+step``, the step does.
"""


def ours_on(device: str, settings: StepBenchSettings) -> tuple[str, ...]:
    """Return the names of our variants for ``--backend``, then those under ``torch.compile`` if requested.

    Raises:
        UsageError: a name is unknown, or for another device type.
    """
    present = tuple(name for name, devices in VARIANTS.items() if device in devices)
    names = present
    if settings.backend != "auto":
        names = tuple(name.strip() for name in settings.backend.split(","))
        for name in names:
            if name not in present:
                raise UsageError(
                    f"--backend {name!r} is not valid on {device}{suggestion(name, present)}. Choose of: "
                    f"auto, {', '.join(present)}, several with commas between."
                )
        if len(set(names)) < len(names):
            raise UsageError(f"--backend {settings.backend!r} names a backend twice. Name each once.")
    return names + tuple(name + _COMPILED for name in names if settings.ours_compile)


def peers_on(device: str, settings: StepBenchSettings) -> Field:
    """Return the peers: on an NPU the original's structure, on a GPU all variants of torchvision.

    Raises:
        UsageError: torchvision is needed and missing.
    """
    if device == "npu":
        return Field((ORIGINAL,), {})
    torchvision_models("bench step")
    return available(PEERS, compiled=settings.compile)


def build_step(name: str, case: str, settings: StepBenchSettings) -> Step:
    """Build one training step of a candidate on a CPU. There is only one case."""
    if name not in (OURS, OURS_COMPILED):
        return _torchvision_step(settings, PEERS[name], torch.device("cpu"))
    if settings.allocator == "default":
        cpu.keep_freed_memory()  # as training does
    compiled = name == OURS_COMPILED
    backend = select_backend(settings.backend, "cpu", compiled=compiled).backend.name
    config, schedule = get_config(settings.arch), constant(LEARNING_RATE)
    return our_step(
        config, backend, cpu.runtime(), schedule=schedule, compiled=compiled, **_measured(settings)
    )


def build_candidate(name: str, settings: StepBenchSettings, runtime: Runtime) -> Step:
    """Build one training step of a candidate on another device."""
    config, device = get_config(settings.arch), runtime.device(0)
    if name == ORIGINAL:
        return original_step(config, device, **_measured(settings))
    if name in PEERS:
        return _torchvision_step(settings, PEERS[name], device)
    compiled = name.endswith(_COMPILED)
    if compiled:
        # All our variants share their code, and torch limits how often it compiles one function.
        importlib.import_module("torch._dynamo").config.recompile_limit = _RECOMPILE_LIMIT
    variant = name.removesuffix(_COMPILED)
    return our_step(config, variant, runtime, compiled=compiled, **_measured(settings))


def _measured(settings: StepBenchSettings) -> dict[str, Any]:
    return {
        "precision": settings.precision,
        "batch_size": int(settings.batch_size),
        "image_size": settings.image_size,
    }


def our_step(
    config: ShuffleNetConfig,
    variant: str,
    runtime: Runtime,
    *,
    precision: str,
    batch_size: int,
    image_size: int,
    schedule: Schedule | None = None,
    world: World | None = None,
    compiled: bool = False,
) -> Step:
    """Build the step of ``train``, with a loss scale for float16.

    ``variant``: a backend, or one of ``VARIANTS``. ``schedule``: of the learning rate; the original's if not
    given.
    """
    world = world or World()
    device = runtime.device(world.local_rank)
    policy = get_policy(precision)
    half = policy.compute_dtype == torch.float16
    scaling = LossScaling("static", initial=64.0) if half else LossScaling()
    if schedule is None:
        schedule = epoch_cosine(LEARNING_RATE, steps_per_epoch=1000, epochs=10, warmup_epochs=1)
    optimizer = sgd(schedule, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    variables = tree_to(init(config, torch.Generator().manual_seed(0)), device)
    state = create_train_state(variables, optimizer, loss_scaling=scaling)
    state, backend = in_order_of(config, state, get_backend(variant.removesuffix(STATS_IN_STEP)))
    step = make_train_step(
        config,
        optimizer,
        policy=policy,
        backend=backend,
        loss_scaling=scaling,
        gradients=grads_by_engine,
        reduce=mean_over_ranks(world.size, world.rank) if world.size > 1 else no_reduce,
        overflow=runtime.overflow(),
        compiler=torch.compile if compiled else lambda function: function,
        stats_in_kernel=runtime.flat_state and not compiled and not variant.endswith(STATS_IN_STEP),
    )
    if runtime.flat_state:
        state = flatten_state(state)
    images, labels = random_batch(config, device, batch_size, image_size)
    batch = Examples(images.contiguous(memory_format=runtime.memory_format), labels)
    flags = no_flags(device)

    def take() -> Tensor:
        nonlocal state
        state, metrics, _ = step(state, batch, flags)
        return metrics.loss

    return settled(take) if compiled else take


def random_batch(
    config: ShuffleNetConfig, device: torch.device, batch_size: int, image_size: int
) -> tuple[Tensor, Tensor]:
    """Return random normalised images and labels, equal for all candidates."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(0, config.num_classes, (batch_size,), generator=generator)
    return images.to(device), labels.to(device)


def _torchvision_step(settings: StepBenchSettings, peer: Peer, device: torch.device) -> Step:
    config = get_config(settings.arch)
    state_dict = to_torchvision(init(config, torch.Generator().manual_seed(0)), config)
    model: Any = torchvision_model("bench step", settings.arch, state_dict)
    model = model.to(device).to(memory_format=peer.memory_format)
    if peer.compiled:
        model = torch.compile(model)
    step = _module_step(model, config, device, memory_format=peer.memory_format, **_measured(settings))
    return settled(step) if peer.compiled else step


def original_step(
    config: ShuffleNetConfig, device: torch.device, *, distributed: bool = False, **measured: Any
) -> Step:
    """Build the step of a module with the structure of the original. ``measured``: as for ``our_step``."""
    model: torch.nn.Module = AscendShuffleNet(config).to(device)
    if distributed:
        model = torch.nn.parallel.DistributedDataParallel(
            model, device_ids=[device.index], broadcast_buffers=False
        )
    return _module_step(model, config, device, **measured)


def _module_step(
    model: torch.nn.Module,
    config: ShuffleNetConfig,
    device: torch.device,
    *,
    precision: str,
    batch_size: int,
    image_size: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Step:
    """Build a step of a module on ``device`` with torch's SGD.

    Half precision uses autocast, and float16 also a gradient scaler.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    images, labels = random_batch(config, device, batch_size, image_size)
    images = images.contiguous(memory_format=memory_format)
    dtype = get_policy(precision).compute_dtype
    half, scaled = dtype != torch.float32, dtype == torch.float16
    scaler = torch.amp.GradScaler(device.type, init_scale=64.0, growth_interval=10**6, enabled=scaled)

    def run() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype if half else None, enabled=half):
            loss: Tensor = torch.nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return run
