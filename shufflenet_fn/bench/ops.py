"""``bench ops``: all primitives and both units, on all backends of a device and as in torchvision."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.bench.candidates import EMULATED, torchvision_model, torchvision_models
from shufflenet_fn.bench.ops_cases import Op, operations
from shufflenet_fn.bench.rounds import Progress, ratio, ratio_fields, reported, run_rounds, silent
from shufflenet_fn.bench.settings import OpsBenchSettings
from shufflenet_fn.bench.workers import ALLOCATORS, Step, Worker, workers
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.config.options import check_options
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import canonical_name, get_config
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_leaves, tree_to
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.npu.environment import emulated
from shufflenet_fn_backends.runtimes.select import runtime_of, select_runtime
from shufflenet_fn_backends.support.errors import DeviceError, UsageError


def run_ops_bench(settings: OpsBenchSettings, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench ops --json``.

    ``operations`` has an object for each operation: its ``name``, the number of ``units`` in one computation,
    and ``passes``. ``passes`` has for ``forward`` and for ``forward and backward`` an object by candidate
    (``torchvision``, if it can be imported, and the backends) with

    * ``ms``: milliseconds of one computation, median over rounds. The host queues many computations before it
      waits for the device;
    * ``ratio`` and ``ratio_interval``: speed relative to ``baseline``, with the 90 % bootstrap interval;
      ``null`` for the baseline.

    ``baseline`` is torchvision, or ``reference`` if torchvision cannot be imported, as on x86-64 with
    torch_npu. ``left_out`` lists the candidates that were not measured, with the reasons. ``warning`` is set
    if the times are not meaningful.

    Raises:
        UsageError: a setting is not allowed.
        DeviceError: the device is not available.
    """
    check_options(settings)
    runtime, reason = select_runtime(settings.device)
    settings = replace(settings, arch=canonical_name(settings.arch), device=runtime.name)
    progress(reason)
    warning = EMULATED if runtime.name == "npu" and emulated() else None
    if warning is not None:
        progress(f"WARNING: {warning}")
    runtime.check_dtypes(get_policy(settings.precision).dtypes, f"--precision {settings.precision}")
    chosen = _chosen(settings)
    candidates, left_out = candidates_for(settings.device)
    for name, why in left_out.items():
        progress(f"WARNING: not measured: {name} ({why})")
    threads = settings.threads or usable_cores()
    with workers(
        candidates,
        build_op,
        settings,
        threads=threads,
        environment=ALLOCATORS[settings.allocator],
        finish=synchronize,
    ) as ready:
        operations = [_operation(op, ready, settings, progress) for op in chosen]
    return {
        **reported(settings, "arch", "image_size", "batch_size", "device", "precision"),
        **reported(settings, "allocator", "rounds", "turn_seconds"),
        "warning": warning,
        "threads": threads,
        "left_out": left_out,
        "baseline": candidates[0],
        "operations": operations,
    }


def _chosen(settings: OpsBenchSettings) -> list[Op]:
    every = settings_operations(settings)
    if settings.only is None:
        return list(every)
    words = [word.strip() for word in settings.only.split(",") if word.strip()]
    chosen = [op for op in every if any(word in op.name for word in words)]
    if not chosen:
        raise UsageError(
            f"--only {settings.only!r} names no operation. There are: {'; '.join(op.name for op in every)}."
        )
    return chosen


def _operation(op: Op, ready: list[Worker], settings: OpsBenchSettings, progress: Progress) -> dict[str, Any]:
    passes = {}
    for which in PASSES:
        progress(f"{op.name}, {which}")
        seconds = run_rounds(
            ready, case=f"{op.name}: {which}", rounds=settings.rounds, turn_seconds=settings.turn_seconds
        )
        baseline = ready[0].name
        passes[which] = {
            name: {
                "ms": 1000 * statistics.median(column),
                **ratio_fields(None if name == baseline else ratio(column, seconds[baseline])),
            }
            for name, column in seconds.items()
        }
    return {"name": op.name, "units": op.units, "passes": passes}


TORCHVISION: Final = "torchvision"
FORWARD, BOTH = "forward", "forward and backward"
PASSES: Final = (FORWARD, BOTH)


class Computation(NamedTuple):
    """An operation to measure.

    ``forward``: returns one tensor. ``leaves``: the tensors to differentiate with respect to. ``gradient``:
    the gradient of the result.
    """

    forward: Callable[[], Tensor]
    leaves: list[Tensor]
    gradient: Tensor

    def both(self) -> tuple[Tensor, ...]:
        """Return the gradients with respect to ``leaves``."""
        return torch.autograd.grad(self.forward(), self.leaves, self.gradient)


def candidates_for(device: str) -> tuple[list[str], dict[str, str]]:
    """Return the candidates on ``device``, with torchvision first, and the missing ones with reasons."""
    present, missing = [TORCHVISION], {}
    try:
        torchvision_models("bench ops")
    except UsageError as error:
        present, missing = [], {TORCHVISION: str(error)}
    for name in BACKEND_NAMES:
        if name in DEVICE_NAMES and name != device:
            continue  # the backend of another device
        try:
            get_backend(name)
        except DeviceError as error:
            missing[name] = str(error).splitlines()[0]
        else:
            present.append(name)
    return present, missing


def build_op(name: str, case: str, settings: OpsBenchSettings) -> Step:
    """Build a candidate's computation for ``case``, which is ``operation: pass``."""
    operation, _, which = case.partition(": ")
    op = next(op for op in settings_operations(settings) if op.name == operation)
    computation = compute(name, op, settings)
    return computation.forward if which == FORWARD else computation.both


def synchronize(settings: OpsBenchSettings) -> None:
    """Wait for the device, once after all calls of a turn."""
    runtime_of(settings.device).synchronize()


def settings_operations(settings: OpsBenchSettings) -> tuple[Op, ...]:
    """Return all operations of these settings, regardless of ``only``."""
    return operations(get_config(settings.arch), settings.batch_size, settings.image_size)


def compute(name: str, op: Op, settings: OpsBenchSettings) -> Computation:
    """Build ``op`` for the candidate ``name``, with the same inputs for every candidate.

    Feature maps and weights of convolutions have the compute dtype of the precision. Parameters of batch
    norms are float32.
    """
    runtime = runtime_of(settings.device)
    runtime.prepare()
    runtime.set_device(0)
    if not runtime.shares:  # on a CPU, the benchmark has a setting for the allocator
        runtime.tune()
    device, layout = runtime.device(0), runtime.memory_format
    generator = torch.Generator().manual_seed(0)
    policy = get_policy(settings.precision)

    def random(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, generator=generator).to(device)
        if len(shape) < 4:
            return tensor.to(policy.norm_dtype)
        return tensor.to(policy.compute_dtype).contiguous(memory_format=layout)

    tensors = {key: random(shape).requires_grad_() for key, shape in op.shapes.items()}
    config = get_config(settings.arch)
    variables = init(config, torch.Generator().manual_seed(0))
    if name == TORCHVISION:
        models = torchvision_models("bench ops")
        model = torchvision_model("bench ops", settings.arch, to_torchvision(variables, config))
        units = model.to(device).to(memory_format=layout).stage2
        for module in units.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(policy.compute_dtype)
        forward = partial(op.torchvision, models, tensors, units)
        weights = [weight for key in op.uses for weight in units[int(key)].parameters()]
    else:
        variables, backend = in_order_of(config, variables, get_backend(name))
        variables = tree_to(variables._replace(params=policy.cast_params(variables.params)), device)
        stage = Variables(*(tree["stage2"] for tree in variables))
        forward = partial(op.ours, backend, tensors, stage)
        weights = [leaf.requires_grad_() for key in op.uses for leaf in tree_leaves(stage.params[key])]
    gradient = random(tuple(forward().shape))
    return Computation(forward, [*tensors.values(), *weights], gradient)
