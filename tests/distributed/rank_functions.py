"""What the processes of the distributed tests run. ``launch`` pickles these by name."""

from __future__ import annotations

import atexit
import importlib.util
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
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
from shufflenet_fn.training.step import Examples, Metrics, Reducible, TrainStep, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map, tree_paths
from tests.model.support import TINY, examples, generator, tiny_variables, unchanged

DOUBLE = torch.float64
BATCH = 8
# Rate 1 without momentum makes gradients readable: params - new params.
BARE = sgd(schedules.constant(1.0))


def everything(argument: list[int], world: World) -> tuple[int, list[int]]:
    """Check all that two ranks share, in one start of two processes."""
    torch.set_num_threads(1)
    with process_group(world, "gloo", timeout_s=60.0):
        check_gather(world)
        check_step_against_one_process(world)
        if importlib.util.find_spec("torchvision"):
            check_gradients_against_ddp(world)
        check_ranks_stay_equal(world)
        check_one_collective_per_dtype(world)
        check_mixed_dtypes(world)
        check_flags_reach_all(world)
        check_difference_is_raised(world)
    assert not dist.is_initialized()
    return world.rank, argument


def check_gather(world: World) -> None:
    (first, pid, a), (second, other_pid, aa) = gather((world, os.getpid(), "a" * (1 + world.rank)), world)
    assert (first.rank, second.rank, first.local_rank, second.local_rank) == (0, 1, 0, 1)
    assert first.size == second.size == first.local_size == second.local_size == 2
    assert first.is_main and not second.is_main
    assert pid != other_pid and (a, aa) == ("a", "aa")


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


def check_step_against_one_process(world: World) -> None:
    """Measured: 3e-16 in float64."""
    state = create_train_state(tiny_variables(dtype=DOUBLE), BARE)
    (one, one_metrics, _), (other, other_metrics, _) = (
        make_train_step(TINY, BARE)(state, half, no_flags()) for half in halves()
    )
    # The two halves must differ, or a missing reduction would not show.
    assert largest_difference(one.params, other.params) > 1e-3
    assert largest_difference(one.batch_stats, other.batch_stats) > 1e-3
    step = make_train_step(TINY, BARE, reduce=mean_over_ranks(world.size, world.rank))
    mine = halves()[world.rank]
    with unchanged(state, mine):
        new, metrics, _ = step(state, mine, no_flags())
    params = tree_map(mean, one.params, other.params)
    assert largest_difference(new.params, params) < 1e-12
    assert largest_difference(new.batch_stats, tree_map(mean, one.batch_stats, other.batch_stats)) < 1e-12
    assert largest_difference(metrics, tree_map(mean, one_metrics, other_metrics)) < 1e-6

    whole = Examples(*examples(BATCH, dtype=DOUBLE))
    microbatches, _, _ = make_train_step(TINY, BARE, microbatches=2)(state, whole, no_flags())
    assert largest_difference(new, microbatches) < 1e-6

    rank0_mode = mean_over_ranks(world.size, world.rank, bn_stats="rank0")
    rank0, _, _ = make_train_step(TINY, BARE, reduce=rank0_mode)(state, mine, no_flags())
    assert largest_difference(rank0.batch_stats, one.batch_stats) == 0.0
    assert largest_difference(rank0.params, params) < 1e-12


def check_gradients_against_ddp(world: World) -> None:
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
    assert largest_difference(tree_map(torch.sub, variables.params, new.params), theirs) < 1e-11


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


def check_ranks_stay_equal(world: World) -> None:
    ends = {tree_digest(full_step(world)[1])}
    for bn_stats in ("mean", "rank0"):
        step, state = full_step(world, bn_stats)
        for number in range(4):
            images, labels = examples(4, seed=10 * number + world.rank)
            state, _, _ = step(state, Examples(images, labels), no_flags())
        first, second = gather(tree_digest(state), world)
        assert first == second
        ends.add(first)
    assert len(ends) == 3


def check_one_collective_per_dtype(world: World) -> None:
    metrics = Metrics(*(torch.zeros(()) for _ in range(3)))
    for dtype, expected in (
        (torch.float32, [torch.float32]),
        (torch.float16, [torch.float16, torch.float32]),
    ):
        state, timing = create_train_state(tiny_variables(dtype=dtype), BARE), MagicMock()
        with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as called:
            reduce = mean_over_ranks(world.size, world.rank, timing=timing)
            reduce(Reducible(state.params, state.batch_stats, metrics, no_flags()))
        assert [call.args[0].dtype for call in called.call_args_list] == expected
        assert timing.return_value.__exit__.call_count == len(expected)


def check_mixed_dtypes(world: World) -> None:
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
    found = {}
    for path, leaf in tree_paths(reduced):
        shape = "x".join(map(str, leaf.shape))
        values = leaf.double().reshape(-1).tolist()
        found[path] = (f"{str(leaf.dtype).removeprefix('torch.')} {shape}", values)
    assert found == {
        "half": ("float16 2x3", [2.0] * 6),
        "single": ("float32 ", [2.0]),
        "again.0": ("float32 4", [20.0] * 4),
        "brain": ("bfloat16 1x1x2", [2.0] * 2),
        "double": ("float64 3", [2.0] * 3),
        "empty": ("float32 0", []),
        "strided": ("float32 3x2", [0.0, 6.0, 2.0, 8.0, 4.0, 10.0]),
    }


def check_flags_reach_all(world: World) -> None:
    step, state = full_step(world)
    batch = Examples(*examples(4, seed=world.rank))
    last = float(world.rank == 1)
    _, _, flags = step(state, batch, no_flags()._replace(stop=torch.tensor(last)))
    assert flags.stop.item() == 0.5

    # Rank 1 alone sees an overflow: once in its gradients, once as told by its device.
    images = batch.images.clone()
    images[0] = float("inf") if last else 0.0
    told = no_flags()._replace(skipped=torch.tensor(last))
    for given in ((Examples(images, batch.labels), no_flags()), (batch, told)):
        new, _, flags = step(state, *given)
        assert flags.skipped.item() == 1.0 and new.step.item() == 1
        assert all(map(torch.equal, tree_leaves(new.params), tree_leaves(state.params)))


def check_difference_is_raised(world: World) -> None:
    tree = {"w": torch.randn(5, generator=generator(1))}
    check_equal_on_all_ranks(tree, world, "the weights")
    if world.rank == 1:
        tree["w"][3] += 1e-6
    expected = r"the weights differs between ranks: ranks \[1\] do not hold what rank 0 holds"
    with pytest.raises(UserError, match=expected):
        check_equal_on_all_ranks(tree, world, "the weights")


# Entries for the tests of `launch` itself.


def fails_on_rank_1(argument: tuple[str, str], world: World) -> None:
    """Rank 1 ends in the first way; rank 0 is stuck in the second, where no message reaches it."""
    how, waiting = argument
    with process_group(world, "gloo", timeout_s=300.0):
        dist.barrier()
        if world.rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {
                "user error": UsageError("the folder /nowhere is missing"),
                "bug": ZeroDivisionError("a bug, not the user's to mend"),
                # As a collective finds that the other has gone, without any error of that one's own.
                "lost peer": RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:33541"),
            }[how]
        if waiting == "in a collective":
            dist.all_reduce(torch.zeros(4))
        time.sleep(300)


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
