"""The thread beside training: order, the bound, and errors that are never lost."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from shufflenet_fn.checkpoint.background import SLOTS, Snapshots, Writer
from shufflenet_fn.errors import UserError
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map
from tests.checkpoint.support import DYNAMIC, at_step, fresh, optimizer, trained
from tests.model.support import TINY, assert_trees_equal, examples


def fail() -> None:
    raise UserError("the disk is full")


def test_tasks_are_done_in_order_beside_the_caller() -> None:
    writer, done, gate = Writer(), [], threading.Event()
    writer.submit(lambda: done.append(("gate", gate.wait(10))))
    for number in range(5):
        writer.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    assert done == []
    gate.set()
    writer.drain()
    assert done == [("gate", True), *((number, "checkpoint-writer") for number in range(5))]
    assert writer.close(10)


def test_error_reaches_caller_and_stops_writer() -> None:
    writer, done = Writer(), []
    writer.submit(fail)
    writer.submit(lambda: done.append(1))
    for call in (writer.drain, writer.check, lambda: writer.submit(lambda: done.append(2))):
        with pytest.raises(UserError, match="the disk is full"):
            call()
    assert writer.close(10) and done == []


def test_early_error_is_reported() -> None:
    writer = Writer(fail)
    with pytest.raises(UserError, match="the disk is full"):
        writer.drain()
    assert writer.close(10)


def test_closing_gives_up_on_a_task_that_hangs() -> None:
    writer, gate = Writer(), threading.Event()
    writer.submit(lambda: gate.wait(30) and None)
    assert not writer.close(0.05)
    gate.set()
    assert writer.close(10)


def test_snapshot_waits_for_a_free_slot() -> None:
    state = fresh()
    snapshots = Snapshots(state)
    taken = [snapshots.take(at_step(state, step)) for step in range(SLOTS)]
    threading.Timer(0.2, taken[0].release).start()
    start = time.perf_counter()
    third = snapshots.take(state)
    assert time.perf_counter() - start > 0.1
    assert int(taken[1].state().step) == 1 and int(third.state().step) == 0


def test_cpu_snapshot_is_the_state_itself() -> None:
    state = trained()
    snapshot = Snapshots(state).take(state)
    pairs = zip(tree_leaves(snapshot.state()), tree_leaves(state), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)


def test_later_steps_leave_a_snapshot_as_it_was() -> None:
    state = trained(1)
    snapshot = Snapshots(state).take(state)
    before = tree_map(torch.clone, state)
    step = make_train_step(TINY, optimizer(), loss_scaling=DYNAMIC, ema_decay=0.9)
    for seed in range(3):
        state, _, _ = step(state, Examples(*examples(4, seed=seed)), no_flags())
    assert_trees_equal(snapshot.state(), before)
