"""``bench ops``: all primitives and both units, on all backends of a device and as in torchvision.

The operations have the sizes of stage 2, which has the largest feature maps. Every operation is written
twice: with a backend's primitives, and as torchvision's model does it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn.bench.peers import EMULATED, torchvision_model, torchvision_models
from shufflenet_fn.bench.rounds import Progress, ratio, ratio_fields, reported, run_rounds, silent
from shufflenet_fn.bench.settings import OpsBenchSettings
from shufflenet_fn.bench.workers import ALLOCATORS, Step, Worker, prepared, workers
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.config.options import check_options
from shufflenet_fn.model import network
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import ShuffleNetConfig, canonical_name, get_config
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_leaves, tree_to
from shufflenet_fn_backends import routed_map
from shufflenet_fn_backends.fused import feature_map
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.runtimes.npu.environment import emulated
from shufflenet_fn_backends.runtimes.select import select_runtime
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
        candidates, build_op, settings, threads=threads, environment=ALLOCATORS[settings.allocator]
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
        names = "; ".join(op.name for op in every)
        raise UsageError(f"--only {settings.only!r} names no operation. There are: {names}.")
    return chosen


def _operation(op: Op, ready: list[Worker], settings: OpsBenchSettings, progress: Progress) -> dict[str, Any]:
    passes = {}
    for which in PASSES:
        progress(f"{op.name}, {which}")
        seconds = run_rounds(
            ready,
            case=f"{op.name}: {which}",
            device=settings.device,
            rounds=settings.rounds,
            turn_seconds=settings.turn_seconds,
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


def settings_operations(settings: OpsBenchSettings) -> tuple[Op, ...]:
    """Return all operations of these settings, regardless of ``only``."""
    return operations(get_config(settings.arch), settings.batch_size, settings.image_size)


def compute(name: str, op: Op, settings: OpsBenchSettings) -> Computation:
    """Build ``op`` for the candidate ``name``, with the same inputs for every candidate.

    Feature maps and weights of convolutions have the compute dtype of the precision. Parameters of batch
    norms are float32.
    """
    runtime = prepared(settings.device)
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
        forward = partial(_ours, op, backend, tensors, stage)
        weights = [leaf.requires_grad_() for key in op.uses for leaf in tree_leaves(stage.params[key])]
    gradient = random(tuple(forward().shape))
    return Computation(forward, [*tensors.values(), *weights], gradient)


def _ours(op: Op, backend: Backend[Any], tensors: Tensors, stage: Variables) -> Tensor:
    maps = {key: _lifted(backend, x) if key.startswith("x") else x for key, x in tensors.items()}
    return backend.to_tensor(op.ours(backend, maps, stage))


def _lifted(backend: Backend[Any], x: Tensor) -> Any:
    """Return ``x`` as a feature map of the backend, without computation."""
    if backend.name in ("routed", "npu"):
        return routed_map.routed(x)
    if backend.name == "cpu":
        return feature_map.single(feature_map.Part(x))
    return x


Tensors = Mapping[str, Tensor]
_EPS: Final = 1e-5


class Op(NamedTuple):
    """An operation.

    ``shapes``: shapes of its feature maps and weights, by name; names of maps start with x. ``ours`` computes
    one feature map from them with a backend and the stage's parameters, in the channel order of the backend.
    ``torchvision`` does the same with functions and modules of torchvision (stage 2 of the model). ``units``:
    number of occurrences of the operation. ``uses``: the units whose parameters it uses.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    ours: Callable[[Backend[Any], Mapping[str, Any], Variables], Any]
    torchvision: Callable[[Any, Tensors, Any], Tensor]
    units: int = 1
    uses: tuple[str, ...] = ()


def operations(config: ShuffleNetConfig, batch_size: int, image_size: int) -> tuple[Op, ...]:
    """Return the operations with the sizes of ``config``'s stage 2."""
    n, stem, c = batch_size, config.stage_channels[0], config.stage_channels[1]
    # The stem, the max pool and the stage each halve the side, rounded up.
    half = -(-image_size // 2)
    quarter = -(-half // 2)
    side, h = -(-quarter // 2), c // 2
    halves = {"x1": (n, h, side, side), "x2": (n, h, side, side)}
    units = config.stage_repeats[0] - 1
    basic = tuple(str(unit) for unit in range(1, units + 1))

    def conv(name: str, side: int, weight: tuple[int, ...], stride: int) -> Op:
        options: dict[str, Any] = {"stride": stride, "padding": weight[-1] // 2, "groups": h // weight[1]}
        return Op(
            name,
            {"x": (n, h, side, side), "weight": weight},
            lambda backend, t, stage: backend.conv2d(t["x"], t["weight"], **options),
            lambda models, t, stage: nnf.conv2d(t["x"], t["weight"], **options),
        )

    def shuffles(name: str, units: int) -> Op:
        ours, theirs = partial(_shuffles, units), partial(_torchvision_shuffles, units)
        return Op(name, halves, ours, theirs, units or 1)

    return (
        shuffles("channel split and shuffle", units),
        shuffles("to_tensor of a shuffled map", 0),
        conv("conv2d 1x1", side, (h, h, 1, 1), 1),
        conv("conv2d depthwise 3x3", side, (h, 1, 3, 3), 1),
        conv("conv2d depthwise 3x3, stride 2", quarter, (h, 1, 3, 3), 2),
        Op(
            "batch_norm_train and ReLU",
            {"x": (n, h, side, side), "weight": (h,), "bias": (h,)},
            lambda backend, t, stage: backend.batch_norm_train(**t, eps=_EPS, relu=True)[0],
            _torchvision_batch_norm,
        ),
        Op(
            "max_pool2d",
            {"x": (n, stem, half, half)},
            lambda backend, t, stage: backend.max_pool2d(t["x"], kernel=3, stride=2, padding=1),
            lambda models, t, stage: nnf.max_pool2d(t["x"], 3, 2, 1),
        ),
        Op("basic unit", halves, _basic_units, _torchvision_basic_units, units, basic),
        Op(
            "downsampling unit",
            {"x": (n, stem, quarter, quarter)},
            _downsampling,
            lambda models, t, stage: stage[0](t["x"]),
            uses=("0",),
        ),
    )


def _shuffles(units: int, backend: Backend[Any], t: Mapping[str, Any], stage: Variables) -> Any:
    """Compute a stage whose branches do nothing, up to the map that the next stage reads."""
    x = backend.channel_shuffle(t["x1"], t["x2"])
    for _ in range(units):
        x = backend.channel_shuffle(*backend.channel_split(x))
    return x


def _torchvision_shuffles(units: int, models: Any, t: Tensors, stage: Any) -> Tensor:
    shuffle = models.shufflenetv2.channel_shuffle
    x: Tensor = shuffle(torch.cat((t["x1"], t["x2"]), dim=1), 2)
    for _ in range(units):
        x = shuffle(torch.cat(x.chunk(2, dim=1), dim=1), 2)
    return x


def _torchvision_batch_norm(models: Any, t: Tensors, stage: Any) -> Tensor:
    y = nnf.batch_norm(t["x"], None, None, t["weight"], t["bias"], True, 0.1, _EPS)
    return nnf.relu(y, inplace=True)


def _basic_units(backend: Backend[Any], t: Mapping[str, Any], stage: Variables) -> Any:
    """Compute all basic units of the stage, because routing defers work to their end."""
    context, x = _context(backend), backend.channel_shuffle(t["x1"], t["x2"])
    for key in map(str, range(1, len(stage.params))):
        x, _ = network._basic_unit(context, stage.params[key], stage.batch_stats[key], x)
    return x


def _torchvision_basic_units(models: Any, t: Tensors, stage: Any) -> Tensor:
    x = _torchvision_shuffles(0, models, t, stage)
    for unit in list(stage)[1:]:
        x = unit(x)
    return x


def _downsampling(backend: Backend[Any], t: Mapping[str, Any], stage: Variables) -> Any:
    x, _ = network._downsampling_unit(_context(backend), stage.params["0"], stage.batch_stats["0"], t["x"])
    return x


def _context(backend: Backend[Any]) -> network._Context:
    return network._Context(backend, network._layer(backend, ShuffleNetConfig(), train=True))
