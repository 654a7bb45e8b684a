"""The contenders of ``bench ops``: every backend that computes on the device, and torchvision's own way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.bench.contenders import torchvision_model, torchvision_models
from shufflenet_fn.bench.ops_cases import Op, operations
from shufflenet_fn.bench.settings import OpsBenchSettings
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.precision import get_policy
from shufflenet_fn.tree import tree_leaves, tree_to
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import DeviceError, UsageError

TORCHVISION: Final = "torchvision"
FORWARD, BOTH = "forward", "forward and backward"
PASSES: Final = (FORWARD, BOTH)


class Computation(NamedTuple):
    """``forward``: to one tensor. ``leaves``: what its gradient is taken by. ``gradient``: of the result."""

    forward: Callable[[], Tensor]
    leaves: list[Tensor]
    gradient: Tensor

    def both(self) -> tuple[Tensor, ...]:
        """The gradients by ``leaves``."""
        return torch.autograd.grad(self.forward(), self.leaves, self.gradient)


def contenders_for(device: str) -> tuple[list[str], dict[str, str]]:
    """Who computes on ``device``, with torchvision first if it is there, and why others do not."""
    present, missing = [TORCHVISION], {}
    try:
        torchvision_models("bench ops")
    except UsageError as error:
        present, missing = [], {TORCHVISION: str(error)}
    for name in BACKEND_NAMES:
        if name in DEVICE_NAMES and name != device:
            continue  # another device's map
        try:
            get_backend(name)
        except DeviceError as error:
            missing[name] = str(error).splitlines()[0]
        else:
            present.append(name)
    return present, missing


def build_op(name: str, case: str, settings: OpsBenchSettings) -> Step:
    """``case`` is ``operation: pass``."""
    operation, _, which = case.partition(": ")
    op = next(op for op in settings_operations(settings) if op.name == operation)
    computation = compute(name, op, settings)
    return computation.forward if which == FORWARD else computation.both


def synchronize(settings: OpsBenchSettings) -> None:
    """Wait for the device once, behind all the calls of a turn."""
    runtime_of(settings.device).synchronize()


def settings_operations(settings: OpsBenchSettings) -> tuple[Op, ...]:
    """The operations of these settings, ``only`` not applied."""
    return operations(get_config(settings.arch), settings.batch_size, settings.image_size)


def compute(name: str, op: Op, settings: OpsBenchSettings) -> Computation:
    """``op`` as the contender ``name`` computes it; the same numbers for every contender.

    Feature maps and the weights of convolutions have the dtype that the precision computes in, the
    parameters of batch norms stay float32.
    """
    runtime = runtime_of(settings.device)
    runtime.prepare()
    runtime.set_device(0)
    if not runtime.shares:  # what the CPU's memory allocator does is a setting of the benchmark
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
        weights = [
            leaf.requires_grad_() for key in op.uses for leaf in tree_leaves(stage.params[key])
        ]
    gradient = random(tuple(forward().shape))
    return Computation(forward, [*tensors.values(), *weights], gradient)
