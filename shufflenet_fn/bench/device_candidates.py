"""The candidates of ``bench step`` on a GPU or an NPU, and their timing."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from shufflenet_fn.bench.ascend_peer import AscendShuffleNet
from shufflenet_fn.bench.candidates import Field, available, settled, torchvision_models
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.step_candidates import PEERS, data_and_weights, torchvision_step
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.distributed.reduce import mean_over_ranks
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import ShuffleNetConfig, get_config
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.training.flat_state import flatten_state
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.schedules import epoch_cosine
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags, no_reduce
from shufflenet_fn.tree import tree_to
from shufflenet_fn_backends.names import STATS_IN_STEP, suggestion
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.runtimes.base import Overflow, Runtime, Window
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import UsageError

ORIGINAL: Final = "original's shape"
"""The peer on an NPU: ``ascend_peer`` with ``torch.optim.SGD``."""

_COMPILED: Final = " compiled"
_RECOMPILE_LIMIT: Final = 64
_WINDOW: Final = Window(skip=0, warm_up=1, record=3)


class Ours(NamedTuple):
    """A variant of our training step: a backend, and the device types that it is measured on.

    ``stats_in_kernel``: whether kernels update the running statistics on devices that support it.
    """

    backend: str
    devices: tuple[str, ...] = ("cuda", "npu")
    stats_in_kernel: bool = True


OURS: Final[Mapping[str, Ours]] = MappingProxyType(
    {
        "reference": Ours("reference"),
        "native": Ours("native"),
        "gather": Ours("gather"),
        # On an NPU, routed is npu under another name.
        "routed": Ours("routed", ("cuda",)),
        "npu": Ours("npu", ("npu",)),
        f"gather{STATS_IN_STEP}": Ours("gather", ("npu",), stats_in_kernel=False),
        f"npu{STATS_IN_STEP}": Ours("npu", ("npu",), stats_in_kernel=False),
    }
)
"""All variants by name. A kept result may name any of them."""


class Turn(NamedTuple):
    """Mean seconds per step of one turn.

    ``step``: between the synchronisations before and after the turn. ``host``: until the last launch
    returned. ``device``: between events in the device's stream around all steps; ``None`` on a CPU, which has
    no events.
    """

    step: float
    host: float
    device: float | None


def ours_on(device: str, settings: StepBenchSettings) -> tuple[str, ...]:
    """Return the names of our variants for ``--backend``, then those under ``torch.compile`` if requested.

    Raises:
        UsageError: a name is unknown, or for another device type.
    """
    present = tuple(name for name, ours in OURS.items() if device in ours.devices)
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
            raise UsageError(
                f"--backend {settings.backend!r} names a backend twice. Name each once."
            )
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


def build_device_case(device: str, case: str, settings: StepBenchSettings) -> Step:
    """Build a case: ``turn: NAME`` returns a ``Turn``, ``profile: NAME`` the folder of the profile."""
    what, _, name = case.partition(": ")
    runtime = runtime_of(settings.device)
    runtime.prepare()
    runtime.set_device(0)
    if not runtime.shares:  # on a CPU, the benchmark has a setting for the allocator
        runtime.tune()
    step = build_candidate(name, settings, runtime)
    if what == "profile":
        return lambda: profiled(step, name, settings, runtime)
    steps = settings.steps or 1
    return lambda: timed(step, steps, runtime)


def build_candidate(name: str, settings: StepBenchSettings, runtime: Runtime) -> Step:
    """Build one training step of the candidate. It returns its loss and does not wait for the device."""
    device, config = runtime.device(0), get_config(settings.arch)
    measured: dict[str, Any] = {
        "precision": settings.precision,
        "batch_size": int(settings.batch_size),
        "image_size": settings.image_size,
    }
    if name == ORIGINAL:
        return peer_step(config, device, **measured)
    if name in PEERS:
        data, variables = data_and_weights(settings)
        return torchvision_step(settings, variables, data, PEERS[name], device)
    compiled = name.endswith(_COMPILED)
    if compiled:
        # All our variants share their code, and torch limits how often it compiles one function.
        importlib.import_module("torch._dynamo").config.recompile_limit = _RECOMPILE_LIMIT
    ours = OURS[name.removesuffix(_COMPILED)]
    step = our_step(
        config,
        get_backend(ours.backend),
        device,
        flat=runtime.flat_state,
        stats_in_kernel=ours.stats_in_kernel and runtime.flat_state and not compiled,
        memory_format=runtime.memory_format,
        overflow=runtime.overflow(),
        compiler=torch.compile if compiled else lambda function: function,
        **measured,
    )
    return settled(step) if compiled else step


def timed(step: Step, steps: int, runtime: Runtime) -> Turn:
    """Take ``steps`` steps, with one synchronisation before and one after them."""
    event = _event(runtime)
    runtime.synchronize()
    start = time.perf_counter()
    begin = event()
    for _ in range(steps):
        step()
    end = event()
    host = time.perf_counter() - start
    runtime.synchronize()
    whole = time.perf_counter() - start
    device = begin.elapsed_time(end) / 1000 / steps if begin is not None else None
    return Turn(whole / steps, host / steps, device)


def profiled(
    step: Step, name: str, settings: StepBenchSettings, runtime: Runtime
) -> tuple[str, int]:
    """Profile a few steps. Return the candidate's folder and the number of recorded steps."""
    assert settings.profile is not None
    words = (settings.arch, settings.precision, settings.batch_size, name)
    folder = Path(settings.profile) / "-".join(words).replace(" ", "-").replace("'", "")
    folder.mkdir(parents=True, exist_ok=True)
    step()
    runtime.synchronize()
    with runtime.profiler(folder, "step", _WINDOW) as profiler:
        for _ in range(_WINDOW.length):
            step()
            # Otherwise kernels of the warm-up would run, and count, in the recorded steps.
            runtime.synchronize()
            profiler.step()
    return str(folder), _WINDOW.record


def _event(runtime: Runtime) -> Callable[[], Any]:
    """Return a function that records a timed event in the current stream, or ``None`` on a CPU."""
    if runtime.name == "cpu":
        return lambda: None
    module = torch.get_device_module(runtime.name)

    def record() -> Any:
        event = module.Event(enable_timing=True)
        event.record()
        return event

    return record


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
    """Build the step of ``train``, with a loss scale for float16. It returns its loss.

    ``flat``: whether the state is flat (``Runtime.flat_state``). ``memory_format``: layout of the images.
    ``overflow``, ``compiler`` and ``stats_in_kernel``: see ``make_train_step``.
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
    state, flags = flatten_state(state) if flat else state, no_flags(device)
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
    """Build the peer's step: forward, loss, backward and update. It returns its loss.

    Half precision uses autocast, and float16 also a gradient scaler.
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
