"""Batches on an NPU: the bytes that were read, in order, from memory that is used again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.background import Snapshots
from shufflenet_fn.checkpoint.inventory import checkpoints
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.buffers import Layout
from shufflenet_fn.data.loader import train_loader
from shufflenet_fn.data.mixing import Mixing
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.transforms import TrainTransform
from shufflenet_fn.run.transfer import UNDER_WAY, DeviceFeed
from shufflenet_fn.training.flat_state import flatten_state, unflatten_state
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.losses import Mix
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map, tree_to
from tests.conftest import Command
from tests.model.support import TINY, assert_trees_equal, examples, tiny_variables
from tests.npu.conftest import counted_run

LAYOUT, STEPS = Layout(4, 16), 12


def loader(root: Path, mixing: Mixing | None, threads: int, **options: Any) -> Any:
    return train_loader(
        open_train_val(root)[0],
        TrainTransform(LAYOUT.size),
        mixing=mixing,
        seed=3,
        global_batch=LAYOUT.capacity,
        stop_step=STEPS,
        threads=threads,
        **options,
    )


def assert_on_device(examples: Examples, batch: Batch) -> None:
    assert examples.images.device.type == examples.labels.device.type == "npu"
    assert torch.equal(examples.images.cpu(), batch.images)
    assert torch.equal(examples.labels.cpu(), batch.labels)
    if not batch.mix:
        assert examples.mix == ()
        return
    assert isinstance(examples.mix, Mix)
    assert torch.equal(examples.mix.partners.cpu(), batch.mix.partners)
    assert float(examples.mix.weight) == float(batch.mix.weight)


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.4)])
@pytest.mark.parametrize("threads", [0, 2])
def test_every_batch_arrives_as_it_was_read(
    npu: Any, image_folder: Path, mixing: Mixing | None, threads: int
) -> None:
    feed = DeviceFeed(torch.device("npu:0"), LAYOUT, ahead=2 * threads)
    for _ in range(2):  # a second loader, as for the next evaluation
        with (
            loader(image_folder, mixing, 0) as expected,
            loader(image_folder, mixing, threads, buffers=feed.ready()) as batches,
        ):
            for batch, read in zip(batches, expected, strict=True):
                assert batch.images.is_pinned()
                assert_on_device(feed(batch), read)


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.4)])
def test_later_uploads_do_not_change_queued_batches(
    npu: Any, image_folder: Path, mixing: Mixing | None
) -> None:
    """The host runs on without looking; what was queued on all batches is read at the end."""
    feed, queued = DeviceFeed(torch.device("npu:0"), LAYOUT, ahead=4), []
    with loader(image_folder, mixing, 2, buffers=feed.ready()) as batches:
        for batch in batches:
            examples = feed(batch)
            queued.append([part.float().sum() for part in parts_of(examples)])
    with loader(image_folder, mixing, 0) as batches:
        expected = [[float(part.float().sum()) for part in parts_of(batch)] for batch in batches]
    assert [[float(one) for one in sums] for sums in queued] == expected
    assert len(queued) > 2 * UNDER_WAY


def parts_of(batch: Batch | Examples) -> tuple[torch.Tensor, ...]:
    """Images and labels, the partners' labels and their weight where there are any."""
    return batch.images, batch.labels, *(batch.mix or ())


def test_short_batch_uses_start_of_memory(npu: Any) -> None:
    feed = DeviceFeed(torch.device("npu:0"), LAYOUT, ahead=2)
    buffers = feed.ready()
    buffers.start(0)
    for number, count in enumerate((4, 1, 3, 0, 2)):
        with buffers.writing(number, lambda: False) as memory:
            parts = LAYOUT.parts(memory, count)
            parts.images.fill_(number + 1)
            parts.labels.fill_(number)
        batch = Batch(parts.images, parts.labels, torch.zeros(count, dtype=torch.int64))
        assert_on_device(feed(batch), batch)


# ---- states of a device are saved without the training loop waiting for it ----


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


# ---- the training loop does not wait for the device that it feeds, also where it saves ----


def test_steps_and_saving_wait_for_events_only(command: Command, image_folder: Path, tmp_path: Path) -> None:
    _, few, more, saving = (
        counted_run(
            *(command, image_folder, tmp_path / name, "--max-steps", steps),
            *("--keep", 9, "--checkpoint-freq", freq),
        )
        for name, steps, freq in (("first", 1, 0), ("few", 8, 0), ("more", 10, 0), ("saving", 8, 2))
    )
    assert more.launches > few.launches
    waits = Counter(few.syncs)
    # Four events a step: that of the metrics of the step before the last, that of the upload before that, and
    # the two between which that step's device may have been idle, which torch_npu asks for to subtract them.
    assert Counter(more.syncs) - waits == Counter({"aclrtSynchronizeEvent": 8})
    # One event for each of the three checkpoints more, waited for by the thread that writes.
    assert Counter(saving.syncs) - waits == Counter({"aclrtSynchronizeEvent": 3})
    assert waits - Counter(more.syncs) == waits - Counter(saving.syncs) == Counter()
    rare, often = (checkpoints(tmp_path / name / "checkpoints") for name in ("few", "saving"))
    assert (len(rare), len(often)) == (1, 4)
    ends = [read_checkpoint(found[0]) for found in (rare, often)]
    for file, tensors in ends[0].files.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ends[1].files[file][name]), (file, name)
