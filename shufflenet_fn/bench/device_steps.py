"""A training step on synthetic images, ours and that of the original's shape, for measuring and counting.

Ours is the step that ``shufflenet-fn train`` takes; the peer is ``ascend_peer``. Images are normalised and
on the device before the step begins, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shufflenet_fn.bench.ascend_peer import AscendShuffleNet
from shufflenet_fn.distributed.reduce import mean_over_ranks
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.precision import get_policy
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.raveled import ravel_state
from shufflenet_fn.training.schedules import epoch_cosine
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags, no_reduce
from shufflenet_fn.tree import tree_to
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.runtimes.base import Overflow

Step = Callable[[], object]


def our_step(
    config: ShuffleNetConfig,
    backend: Backend[Any],
    device: torch.device,
    *,
    precision: str,
    batch_size: int,
    image_size: int,
    world: World | None = None,
    flat: bool = True,
    memory_format: torch.memory_format = torch.contiguous_format,
    overflow: Overflow | None = None,
    compiler: Callable[[Any], Any] = lambda function: function,
    stats_in_kernel: bool = False,
) -> Step:
    """A step as ``train`` takes it, with a loss scale for float16; it returns its loss.

    ``flat``: the state in a few buffers, as on devices where launches are dear. ``memory_format``: of the
    images. ``overflow``, ``compiler`` and ``stats_in_kernel``: as of ``make_train_step``.
    """
    policy = get_policy(precision)
    half = policy.compute_dtype == torch.float16
    scaling = LossScaling("static", initial=64.0) if half else LossScaling()
    schedule = epoch_cosine(0.1, steps_per_epoch=1000, epochs=10, warmup_epochs=1)
    optimizer = sgd(schedule, momentum=0.9, weight_decay=1e-4)
    variables = init(config, torch.Generator().manual_seed(0))
    variables = tree_to(Variables(*variables), device)
    state, computing = in_order_of(
        config, create_train_state(variables, optimizer, loss_scaling=scaling), backend
    )
    distributed = world is not None and world.size > 1
    step = make_train_step(
        config,
        optimizer,
        policy=policy,
        backend=computing,
        loss_scaling=scaling,
        gradients=grads_by_engine,
        reduce=mean_over_ranks(world.size, world.rank) if world and distributed else no_reduce,
        overflow=overflow,
        compiler=compiler,
        stats_in_kernel=stats_in_kernel,
    )
    state, flags = ravel_state(state) if flat else state, no_flags(device)
    images, labels = _batch(config, device, batch_size, image_size)
    batch = Examples(images.contiguous(memory_format=memory_format), labels)

    def take() -> Tensor:
        nonlocal state
        state, metrics, _ = step(state, batch, flags)
        return metrics.loss

    return take


def peer_step(
    config: ShuffleNetConfig,
    device: torch.device,
    *,
    precision: str,
    batch_size: int,
    image_size: int,
    distributed: bool = False,
) -> Step:
    """The peer's step: forward, loss, backward and update; it returns its loss.

    It computes in half precision under autocast, in float16 with a gradient scaler.
    """
    model: nn.Module = AscendShuffleNet(config).to(device)
    if distributed:
        model = nn.parallel.DistributedDataParallel(
            model, device_ids=[device.index], broadcast_buffers=False
        )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    images, labels = _batch(config, device, batch_size, image_size)
    dtype = get_policy(precision).compute_dtype
    half, scaled = dtype != torch.float32, dtype == torch.float16
    scaler = torch.amp.GradScaler("npu", init_scale=64.0, growth_interval=10**6, enabled=scaled)

    def take() -> Tensor:
        with torch.autocast("npu", dtype=dtype if half else None, enabled=half):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return take


def _batch(
    config: ShuffleNetConfig, device: torch.device, batch_size: int, image_size: int
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(0, config.num_classes, (batch_size,), generator=generator)
    return images.to(device), labels.to(device)
