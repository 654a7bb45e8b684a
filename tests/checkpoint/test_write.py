"""Checkpoints are written whole, and what was there before is never lost."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from shufflenet_fn.checkpoint.background import SLOTS, Snapshots, Writer
from shufflenet_fn.checkpoint.format import EMA, MANIFEST, STATE, WEIGHTS, state_from
from shufflenet_fn.checkpoint.inventory import point_to, pointed_to
from shufflenet_fn.checkpoint.read import read_checkpoint, verify
from shufflenet_fn.checkpoint.torchvision import from_torchvision
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.distributed.group import tree_digest
from shufflenet_fn.errors import UserError
from shufflenet_fn.io import Content, Disk
from shufflenet_fn.training.state import TrainState
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map
from tests.checkpoint.support import (
    DYNAMIC,
    NOTE,
    Names,
    at_step,
    fresh,
    load_state,
    names,
    optimizer,
    trained,
)
from tests.model.support import TINY, assert_trees_equal, examples, unchanged


def test_a_state_comes_back_byte_for_byte(folder: Path) -> None:
    state = trained()
    with unchanged(state):
        checkpoint = save_checkpoint(folder, TINY, state, NOTE)
    assert checkpoint == folder / "step-00000003"
    back = load_state(checkpoint, TINY, fresh(seed=5))
    assert_trees_equal(back, state)
    assert tree_digest(back) == tree_digest(state) != tree_digest(fresh(seed=5))
    assert names(checkpoint) == {WEIGHTS, EMA, STATE, MANIFEST}
    assert names(folder) == {checkpoint.name}


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"ema": False}, {WEIGHTS, STATE, MANIFEST}),
        ({"scaling": None}, {WEIGHTS, EMA, STATE, MANIFEST}),
        ({"momentum": 0.0, "clip": False, "ema": False}, {WEIGHTS, STATE, MANIFEST}),
        ({"dtype": torch.float16}, {WEIGHTS, EMA, STATE, MANIFEST}),
        ({"dtype": torch.float64}, {WEIGHTS, EMA, STATE, MANIFEST}),
    ],
    ids=["no average", "no scale", "plain", "float16", "float64"],
)
def test_states_of_other_shapes(folder: Path, options: dict[str, Any], files: Names) -> None:
    state = at_step(fresh(**options), 12)
    checkpoint = save_checkpoint(folder, TINY, state, NOTE)
    assert names(checkpoint) == files
    back = load_state(checkpoint, TINY, fresh(seed=5, **options))
    assert_trees_equal(back, state)
    assert back.ema == () if options.get("ema") is False else back.ema != ()


def with_special_values(state: TrainState) -> TrainState:
    state.params["fc"]["bias"][:3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    return state


def with_channels_last(state: TrainState) -> TrainState:
    def moved(leaf: Tensor) -> Tensor:
        return leaf.contiguous(memory_format=torch.channels_last) if leaf.ndim == 4 else leaf

    return state._replace(params=tree_map(moved, state.params))


def in_one_buffer(state: TrainState) -> TrainState:
    """Leaves of a reduced tree are views of one flat buffer; safetensors refuses such."""
    leaves = tree_leaves(state.batch_stats)
    flat = torch.cat([leaf.reshape(-1) for leaf in leaves])
    views = iter(torch.split(flat, [leaf.numel() for leaf in leaves]))
    return state._replace(batch_stats=tree_map(lambda _: next(views), state.batch_stats))


@pytest.mark.parametrize("change", [with_special_values, with_channels_last, in_one_buffer])
def test_unusual_leaves_come_back(folder: Path, change: Callable[[TrainState], TrainState]) -> None:
    state = change(fresh())
    written = read_checkpoint(save_checkpoint(folder, TINY, state, NOTE), finite=False)
    back = state_from(written.files, TINY, fresh(seed=5), written.path)
    assert tree_digest(back) == tree_digest(state)


def test_leaves_are_matched_by_path(kept: Path) -> None:
    """A state with its keys in another order, as after a round trip through sorted keys."""

    def reordered(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: reordered(tree[key]) for key in sorted(tree)}
        return tree

    like = fresh(seed=5)
    like = like._replace(params=reordered(like.params), batch_stats=reordered(like.batch_stats))
    assert list(like.params["conv1"]["bn"]) != list(trained().params["conv1"]["bn"])
    assert_trees_equal(load_state(kept, TINY, like), trained())


def test_manifest_holds_its_input_and_hashes_files(kept: Path) -> None:
    manifest = verify(kept)
    assert {key: manifest[key] for key in NOTE} == NOTE
    assert (manifest["format"], manifest["step"]) == (1, 3)
    assert set(manifest["files"]) == {WEIGHTS, EMA, STATE}
    for name, stored in manifest["files"].items():
        content = (kept / name).read_bytes()
        assert stored == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert json.loads((kept / MANIFEST).read_text()) == manifest


def test_weights_are_stored_under_torchvisions_names(kept: Path) -> None:
    for file, variables in ((WEIGHTS, trained().variables), (EMA, trained().ema)):
        stored = safetensors.torch.load_file(kept / file)
        assert_trees_equal(from_torchvision(stored, TINY), variables)
        assert stored["conv1.1.num_batches_tracked"].item() == 3


def test_a_checkpoint_of_the_same_step_is_replaced(folder: Path) -> None:
    save_checkpoint(folder, TINY, at_step(fresh(seed=0), 4), NOTE)
    second = at_step(fresh(seed=1), 4)
    checkpoint = save_checkpoint(folder, TINY, second, {**NOTE, "arch": "other"})
    assert names(folder) == {"step-00000004"}
    assert verify(checkpoint)["arch"] == "other"
    assert_trees_equal(load_state(checkpoint, TINY, fresh(seed=5)), second)


def test_what_a_killed_process_left_is_no_obstacle(folder: Path) -> None:
    left = folder / ".step-00000004.partial"
    left.mkdir(parents=True)
    (left / WEIGHTS).write_bytes(b"half")
    verify(save_checkpoint(folder, TINY, at_step(fresh(), 4), NOTE))
    assert names(folder) == {"step-00000004"}


def test_file_at_folder_path_is_one_error(folder: Path) -> None:
    folder.write_text("in the way")
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        save_checkpoint(folder, TINY, fresh(), NOTE)
    assert folder.read_text() == "in the way"


class FullDisk(Disk):
    """A disk that is full when a file of the given name is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, path: Path, content: Content) -> None:
        super().write(Path("/dev/full") if path.name == self.name else path, content)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to be a full disk")
def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    """One write is led to /dev/full, which the kernel answers with 'No space left on device'."""
    old = save_checkpoint(folder, TINY, at_step(fresh(), 4), NOTE)
    point_to(folder, "latest", old)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, step in itertools.product([WEIGHTS, STATE, MANIFEST], [4, 5]):
        with pytest.raises(UserError, match="No space left on device"):
            save_checkpoint(folder, TINY, at_step(trained(), step), NOTE, disk=FullDisk(name))
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        assert names(folder) == {"step-00000004", "latest.json"}
    assert pointed_to(folder, "latest") == old
    assert verify(old)["step"] == 4


def test_invalid_manifest_leaves_no_files(folder: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(folder, TINY, fresh(), {"settings": {1, 2}})
    assert not folder.exists()


# ---- the thread beside training: order, the bound, and errors that are never lost ----


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
    early = Writer(begin=fail)
    with pytest.raises(UserError, match="the disk is full"):
        early.drain()
    assert early.close(10)


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


def test_cpu_snapshot_is_the_state_which_stays_unchanged() -> None:
    state = trained(1)
    snapshot = Snapshots(state).take(state)
    assert snapshot.state() is state
    before = tree_map(torch.clone, state)
    step = make_train_step(TINY, optimizer(), loss_scaling=DYNAMIC, ema_decay=0.9)
    for seed in range(3):
        state, _, _ = step(state, Examples(*examples(4, seed=seed)), no_flags())
    assert_trees_equal(snapshot.state(), before)
