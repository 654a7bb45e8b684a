"""States of a device are saved without the training loop waiting for it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from shufflenet_fn.checkpoint.background import Snapshots
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map, tree_to
from tests.model.support import TINY, assert_trees_equal, examples, tiny_variables


@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
def test_a_snapshot_stays_as_the_state_was(npu: ModuleType, flat: bool) -> None:
    npu.set_device(0)
    device, scaling = torch.device("npu", 0), LossScaling("dynamic", initial=64.0)
    optimizer = sgd(constant(0.05), momentum=0.9)
    state = create_train_state(tree_to(tiny_variables(), device), optimizer, loss_scaling=scaling, ema=True)
    state = flatten_state(state) if flat else state
    step = make_train_step(TINY, optimizer, loss_scaling=scaling, ema_decay=0.9)
    batch = Examples(*(leaf.to(device) for leaf in examples(4)))
    snapshots, kept, expected = Snapshots(state), [], []
    for _ in range(2):
        state, _, _ = step(state, batch, no_flags(device))
        kept.append(snapshots.take(state))
        expected.append(tree_map(lambda leaf: leaf.cpu().clone(), unflatten_state(state)))
    state, _, _ = step(state, batch, no_flags(device))
    for snapshot, was in zip(kept, expected, strict=True):
        assert {leaf.device.type for leaf in tree_leaves(snapshot.state())} == {"cpu"}
        assert_trees_equal(unflatten_state(snapshot.state()), was)
    # Their memory is used again.
    places = {leaf.data_ptr() for leaf in tree_leaves(kept[0].state())}
    kept[0].release()
    again = {leaf.data_ptr() for leaf in tree_leaves(snapshots.take(state).state())}
    assert len(places & again) >= len(again) - 1  # the step number may lie on the host
