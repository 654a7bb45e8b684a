"""Who is measured: one training step each, on the same random images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.model.config import canonical_name, get_config
from shufflenet_fn.model.variables import init
from shufflenet_fn.precision import get_policy
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn_backends.errors import UsageError
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes import cpu

Step = Callable[[], None]

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4

OURS = "shufflenet-fn"
PEERS = {
    "torchvision": torch.contiguous_format,
    "torchvision channels_last": torch.channels_last,
}


class Images(NamedTuple):
    """Random normalised images and labels, the same for every contender."""

    images: torch.Tensor
    labels: torch.Tensor


def build_step(name: str, settings: StepBenchSettings) -> Step:
    """One training step of the contender ``name`` as a function without arguments."""
    generator = torch.Generator().manual_seed(0)
    size, count = settings.image_size, settings.batch_size
    images = torch.randn(count, 3, size, size, generator=generator)
    labels = torch.randint(0, 1000, (count,), generator=generator)
    if name == OURS:
        return _ours(settings, Images(images, labels))
    return _torchvision(settings, Images(images, labels), PEERS[name])


def _ours(settings: StepBenchSettings, data: Images) -> Step:
    config = get_config(settings.arch)
    optimizer = sgd(constant(LEARNING_RATE), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    step = make_train_step(
        config,
        optimizer,
        policy=get_policy(settings.precision),
        backend=select_backend(settings.backend, "cpu").backend,
    )
    memory_format = cpu.runtime().memory_format
    batch = Examples(data.images.contiguous(memory_format=memory_format), data.labels)
    state = create_train_state(init(config, torch.Generator().manual_seed(0)), optimizer)
    flags = no_flags()

    def run() -> None:
        nonlocal state
        state, _, _ = step(state, batch, flags)

    return run


def _torchvision(
    settings: StepBenchSettings, data: Images, memory_format: torch.memory_format
) -> Step:
    try:
        from torchvision import models
    except ImportError as error:
        raise UsageError(
            f"bench step measures against torchvision, which cannot be imported ({error}). Install it: "
            "pip install 'shufflenet-fn[bench]'."
        ) from error
    model = getattr(models, canonical_name(settings.arch))().to(memory_format=memory_format)
    model.train()
    images = data.images.contiguous(memory_format=memory_format)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    half = settings.precision == "bf16"

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(model(images), data.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run
