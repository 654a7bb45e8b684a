"""What the processes of the distributed tests run. ``launch`` pickles these by name."""

from __future__ import annotations

import atexit
import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shufflenet_fn.distributed.group import check_equal_on_all_ranks, gather, process_group, tree_digest
from shufflenet_fn.distributed.heartbeats import Phase, open_slot
from shufflenet_fn.distributed.reduce import all_reduce_mean, mean_over_ranks
from shufflenet_fn.distributed.world import World
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn.training import schedules
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import GradientTransformation, chain, clip_by_global_norm, sgd
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, Reducible, TrainStep, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map, tree_paths
from tests.model.support import TINY, examples, generator, tiny_variables, unchanged

DOUBLE = torch.float64
BATCH = 8
# Rate 1 without momentum makes gradients readable: params - new params.
BARE = sgd(schedules.constant(1.0))


@dataclass
class Report:
    """What rank 0 brings home. Differences are the largest over all leaves."""

    written_by: int
    argument: list[int]
    ranks: list[Any] = field(default_factory=list)
    gradients_against_one_process: float = -1.0
    statistics_against_one_process: float = -1.0
    metrics_against_one_process: float = -1.0
    microbatches_against_ranks: float = -1.0
    gradients_against_ddp: float | None = None
    statistics_against_rank0: float = -1.0
    gradients_in_rank0_mode: float = -1.0
    digests: dict[str, list[str]] = field(default_factory=dict)
    collectives: dict[str, list[str]] = field(default_factory=dict)
    collectives_timed: int = 0
    mixed: dict[str, tuple[str, list[float]]] = field(default_factory=dict)
    stop_flags: list[float] = field(default_factory=list)
    skipped_flags: list[float] = field(default_factory=list)
    unchanged_by_skip: list[bool] = field(default_factory=list)
    equal_check: str = ""
    unequal_check: list[str] = field(default_factory=list)


def everything(argument: list[int], world: World) -> Report:
    """All that two ranks can be asked, in one start of two processes."""
    torch.set_num_threads(1)
    report = Report(written_by=world.rank, argument=argument)
    with process_group(world, "gloo", timeout_s=60.0):
        report.ranks = gather((world, os.getpid(), "a" * (1 + world.rank)), world)
        _compare_with_one_process(report, world)
        if importlib.util.find_spec("torchvision"):
            _compare_with_ddp(report, world)
        _train_in_step(report, world)
        _count_collectives(report, world)
        _mix_dtypes(report, world)
        _raise_flags(report, world)
        _check_equality(report, world)
    return report


def halves(dtype: torch.dtype = DOUBLE, size: int = 32) -> list[Examples]:
    images, labels = examples(BATCH, size, dtype=dtype)
    pairs = zip(images.chunk(2), labels.chunk(2), strict=True)
    return [Examples(*pair) for pair in pairs]


def largest_difference(a: Any, b: Any) -> float:
    left, right = dict(tree_paths(a)), dict(tree_paths(b))
    assert left.keys() == right.keys()
    return max((left[path] - leaf).abs().max().item() for path, leaf in right.items())


def mean(*leaves: Tensor) -> Tensor:
    return torch.stack(leaves).mean(0)


def _compare_with_one_process(report: Report, world: World) -> None:
    state = create_train_state(tiny_variables(dtype=DOUBLE), BARE)
    alone = [make_train_step(TINY, BARE)(state, half, no_flags()) for half in halves()]
    reduce = mean_over_ranks(world.size, world.rank)
    step = make_train_step(TINY, BARE, reduce=reduce)
    mine = halves()[world.rank]
    with unchanged(state, mine):
        new, metrics, _ = step(state, mine, no_flags())
    params = tree_map(mean, *(one[0].params for one in alone))
    report.gradients_against_one_process = largest_difference(new.params, params)
    report.statistics_against_one_process = largest_difference(
        new.batch_stats, tree_map(mean, *(one[0].batch_stats for one in alone))
    )
    report.metrics_against_one_process = largest_difference(
        metrics, tree_map(mean, *(one[1] for one in alone))
    )
    images, labels = examples(BATCH, dtype=DOUBLE)
    microbatches, _, _ = make_train_step(TINY, BARE, microbatches=2)(
        state, Examples(images, labels), no_flags()
    )
    report.microbatches_against_ranks = largest_difference(new, microbatches)
    # The two halves must differ, or a missing reduction would not show.
    assert largest_difference(alone[0][0].params, alone[1][0].params) > 1e-3

    rank0, _, _ = make_train_step(
        TINY, BARE, reduce=mean_over_ranks(world.size, world.rank, bn_stats="rank0")
    )(state, mine, no_flags())
    report.statistics_against_rank0 = max(
        gather(largest_difference(rank0.batch_stats, alone[0][0].batch_stats), world)
    )
    report.gradients_in_rank0_mode = largest_difference(rank0.params, params)
    assert largest_difference(alone[0][0].batch_stats, alone[1][0].batch_stats) > 1e-3


def _compare_with_ddp(report: Report, world: World) -> None:
    from torch.nn.parallel import DistributedDataParallel

    from shufflenet_fn.checkpoint.torchvision import from_torchvision
    from shufflenet_fn.model.config import get_config
    from tests.model.peers import peer

    module = peer("x0_5", num_classes=TINY.num_classes, dtype=DOUBLE).train()
    config = get_config("x0_5", num_classes=TINY.num_classes)
    variables = from_torchvision(module.state_dict(), config)
    mine = halves(size=64)[world.rank]

    wrapped = DistributedDataParallel(module)
    torch.nn.functional.cross_entropy(wrapped(mine.images), mine.labels).backward()
    gradients = {key: parameter.grad for key, parameter in module.named_parameters()}
    theirs = from_torchvision({**module.state_dict(), **gradients}, config).params

    step = make_train_step(config, BARE, reduce=mean_over_ranks(world.size, world.rank))
    new, _, _ = step(create_train_state(variables, BARE), mine, no_flags())
    ours = tree_map(torch.sub, variables.params, new.params)
    report.gradients_against_ddp = max(gather(largest_difference(ours, theirs), world))


def full_optimizer() -> GradientTransformation:
    rule = sgd(schedules.cosine(0.0625, total_steps=20), momentum=0.9, weight_decay=1e-3)
    return chain(clip_by_global_norm(5.0), rule)


def full_step(world: World, bn_stats: str = "mean") -> tuple[TrainStep, TrainState]:
    optimizer, scaling = full_optimizer(), LossScaling("dynamic", initial=64.0, growth_interval=2)
    step = make_train_step(
        TINY,
        optimizer,
        loss_scaling=scaling,
        ema_decay=0.9,
        reduce=mean_over_ranks(world.size, world.rank, bn_stats=bn_stats),
    )
    state = create_train_state(tiny_variables(), optimizer, loss_scaling=scaling, ema=True)
    return step, state


def _train_in_step(report: Report, world: World) -> None:
    for bn_stats in ("mean", "rank0"):
        step, state = full_step(world, bn_stats)
        for number in range(4):
            images, labels = examples(4, seed=10 * number + world.rank)
            state, _, _ = step(state, Examples(images, labels), no_flags())
        report.digests[bn_stats] = gather(tree_digest(state), world)
    report.digests["start"] = gather(tree_digest(full_step(world)[1]), world)


@contextmanager
def counted_collectives() -> Iterator[list[str]]:
    """The dtypes of the buffers that are given to ``all_reduce``, which does its work as ever."""
    seen: list[str] = []
    real = dist.all_reduce

    def all_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(str(tensor.dtype).removeprefix("torch."))
        return real(tensor, *args, **kwargs)

    dist.all_reduce = all_reduce
    try:
        yield seen
    finally:
        dist.all_reduce = real


@contextmanager
def noted(entered: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    entered.append(time.perf_counter() - start)


def _count_collectives(report: Report, world: World) -> None:
    entered: list[float] = []
    for name, dtype in (("float32", torch.float32), ("float16", torch.float16)):
        state = create_train_state(tiny_variables(dtype=dtype), BARE)
        reduce = mean_over_ranks(world.size, world.rank, timing=lambda: noted(entered))
        tree = Reducible(state.params, state.batch_stats, tree_map(torch.zeros_like, _metrics()), no_flags())
        with counted_collectives() as seen:
            reduce(tree)
        report.collectives[name] = seen
    assert all(seconds > 0.0 for seconds in entered)
    report.collectives_timed = len(entered)


def _metrics() -> Any:
    from shufflenet_fn.training.step import Metrics

    return Metrics(*(torch.ones(()) for _ in range(3)))


def _mix_dtypes(report: Report, world: World) -> None:
    own = 1.0 + 2.0 * world.rank  # 1 on rank 0, 3 on rank 1: 2 in the mean
    tree = {
        "half": torch.full((2, 3), own, dtype=torch.float16),
        "single": torch.full((), own),
        "again": (torch.full((4,), 10 * own), ()),
        "brain": torch.full((1, 1, 2), own, dtype=torch.bfloat16),
        "double": torch.full((3,), own, dtype=DOUBLE),
        "empty": torch.zeros(0),
        "strided": torch.arange(6.0).reshape(2, 3).t() * own,
    }
    with unchanged(tree):
        reduced = all_reduce_mean(tree, world.size)
    for path, leaf in tree_paths(reduced):
        shape = "x".join(map(str, leaf.shape))
        values = leaf.double().reshape(-1).tolist()
        report.mixed[path] = (f"{str(leaf.dtype).removeprefix('torch.')} {shape}", values)


def _raise_flags(report: Report, world: World) -> None:
    step, state = full_step(world)
    batch = Examples(*examples(4, seed=world.rank))
    last = float(world.rank == 1)
    _, _, flags = step(state, batch, no_flags()._replace(stop=torch.tensor(last)))
    report.stop_flags = gather(flags.stop.item(), world)

    # Rank 1 alone sees an overflow: once in its gradients, once as told by its device.
    images = batch.images.clone()
    images[0] = float("inf") if last else 0.0
    told = no_flags()._replace(skipped=torch.tensor(last))
    for given in ((Examples(images, batch.labels), no_flags()), (batch, told)):
        new, _, flags = step(state, *given)
        report.skipped_flags += gather(flags.skipped.item(), world)
        same = all(
            torch.equal(a, b) for a, b in zip(tree_leaves(new.params), tree_leaves(state.params), strict=True)
        )
        report.unchanged_by_skip += gather(same and new.step.item() == 1, world)


def _check_equality(report: Report, world: World) -> None:
    tree = {"w": torch.randn(5, generator=generator(1))}
    check_equal_on_all_ranks(tree, world, "the weights")
    report.equal_check = "passed"
    if world.rank == 1:
        tree["w"][3] += 1e-6
    try:
        check_equal_on_all_ranks(tree, world, "the weights")
        message = "nothing was raised"
    except UserError as error:
        message = str(error)
    report.unequal_check = gather(message, world)


# Entries for the tests of `launch` itself.


def fail_while_the_other_waits(waiting: str, world: World) -> None:
    """Rank 1 says what is wrong; rank 0 is stuck where no message reaches it."""
    with process_group(world, "gloo", timeout_s=300.0):
        dist.barrier()
        if world.rank == 1:
            raise UsageError("the folder /nowhere is missing")
        wait(waiting)


def killed_while_the_other_waits(waiting: str, world: World) -> None:
    with process_group(world, "gloo", timeout_s=300.0):
        dist.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        wait(waiting)


def wait(how: str) -> None:
    if how == "in a collective":
        dist.all_reduce(torch.zeros(4))
    time.sleep(300)


def bug_while_the_other_waits(waiting: str, world: World) -> None:
    with process_group(world, "gloo", timeout_s=300.0):
        dist.barrier()
        if world.rank == 1:
            raise ZeroDivisionError("a bug, not the user's to mend")
        wait(waiting)


def told_of_a_lost_peer(argument: object, world: World) -> None:
    """As a rank whose collective finds that the other has gone, without any error of that one's own."""
    if world.rank == 1:
        raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:33541")


def steps_that_hang_at_three(how: str, world: World) -> None:
    """Three steps, then rank 1 hangs, in its own work or because it was stopped."""
    slot = open_slot(world.heartbeats, world.local_rank)
    with process_group(world, "gloo", timeout_s=300.0):
        for step in range(1, 4):
            dist.barrier()
            slot.beat(step, Phase.COMPUTING)
        if world.rank == 1:
            if how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(300)
        slot.beat(3, Phase.WAITING)
        dist.barrier()


def killed_once(folder: str, world: World) -> int:
    """The attempt in which it worked: rank 1 is killed in the first one."""
    with process_group(world, "gloo", timeout_s=300.0):
        dist.barrier()
        marker = Path(folder) / "was-here"
        if world.rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        attempts = gather(world.attempt, world)
    assert attempts == [world.attempt] * world.size
    return world.attempt


def refused_at_first(starts: int, world: World) -> int:
    """As a device that is still held refuses it, in the first ``starts`` of the ranks."""
    if world.attempt < starts and world.rank == 1:
        raise RuntimeError("EJ0001: Failed to initialize the HCCP process")
    return world.attempt


def fails_in_exit_handlers(argument: None, world: World) -> int:
    """Stand for a library that ends the process at its exit, as threads of gloo sometimes do."""
    atexit.register(os._exit, 3)
    return world.rank


def says_when_it_was_told_to_stop(argument: object, world: World) -> list[int]:
    """The signal that each rank finds on the board."""
    slot = open_slot(world.heartbeats, world.local_rank)
    with process_group(world, "gloo", timeout_s=300.0):
        dist.barrier()
        if world.rank == 1:  # as a scheduler that tells every process
            os.kill(os.getpid(), signal.SIGTERM)
        while not slot.stop_signal:
            time.sleep(0.01)
        return gather(slot.stop_signal, world)
