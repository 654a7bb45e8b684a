"""The candidates of ``bench step`` on a CPU, and torchvision's step on any device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.bench.candidates import (
    OURS,
    OURS_COMPILED,
    Peer,
    peers,
    settled,
    torchvision_model,
)
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes import cpu

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4
PEERS = peers(folding=False)


class Data(NamedTuple):
    """Random normalised images and labels, equal for all candidates."""

    images: Tensor
    labels: Tensor


def build_step(name: str, case: str, settings: StepBenchSettings) -> Step:
    """Build one training step of the candidate ``name``. It returns its loss. There is only one case."""
    data, variables = data_and_weights(settings)
    if name in (OURS, OURS_COMPILED):
        return _ours(settings, variables, data, compiled=name == OURS_COMPILED)
    return torchvision_step(settings, variables, data, PEERS[name], torch.device("cpu"))


def data_and_weights(settings: StepBenchSettings) -> tuple[Data, Variables]:
    """Return the batch and the initial weights, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    size, count = settings.image_size, int(settings.batch_size)
    images = torch.randn(count, 3, size, size, generator=generator)
    labels = torch.randint(0, 1000, (count,), generator=generator)
    return Data(images, labels), init(get_config(settings.arch), torch.Generator().manual_seed(0))


def _ours(settings: StepBenchSettings, variables: Variables, data: Data, *, compiled: bool) -> Step:
    """Build the step of ``shufflenet-fn train``, with the state in the backend's own channel order."""
    if settings.allocator == "default":
        cpu.keep_freed_memory()  # as training does
    config = get_config(settings.arch)
    optimizer = sgd(constant(LEARNING_RATE), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    chosen = select_backend(settings.backend, "cpu", compiled=compiled).backend
    state, backend = in_order_of(config, create_train_state(variables, optimizer), chosen)
    step = make_train_step(
        config,
        optimizer,
        policy=get_policy(settings.precision),
        backend=backend,
        gradients=grads_by_engine,
        compiler=torch.compile if compiled else lambda function: function,
    )
    memory_format = cpu.runtime().memory_format
    batch = Examples(data.images.contiguous(memory_format=memory_format), data.labels)
    flags = no_flags()

    def run() -> Tensor:
        nonlocal state
        state, metrics, _ = step(state, batch, flags)
        return metrics.loss

    return settled(run) if compiled else run


def torchvision_step(
    settings: StepBenchSettings, variables: Variables, data: Data, peer: Peer, device: torch.device
) -> Step:
    """Build a step with torchvision's model and torch's SGD.

    Half precision uses autocast, and float16 also a gradient scaler.
    """
    state_dict = to_torchvision(variables, get_config(settings.arch))
    model: Any = torchvision_model("bench step", settings.arch, state_dict)
    model = model.to(device).to(memory_format=peer.memory_format)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    if peer.compiled:
        model = torch.compile(model)
    images = data.images.to(device).contiguous(memory_format=peer.memory_format)
    labels = data.labels.to(device)
    dtype = get_policy(settings.precision).compute_dtype
    half, scaled = dtype != torch.float32, dtype == torch.float16
    scaler = torch.amp.GradScaler(
        device.type, init_scale=64.0, growth_interval=10**6, enabled=scaled
    )

    def run() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype if half else None, enabled=half):
            loss: Tensor = torch.nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return settled(run) if peer.compiled else run
