"""Checkpoints on disk: written whole, read back byte for byte, and never trusted unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shufflenet_fn.checkpoint import store
from shufflenet_fn.checkpoint.store import (
    EMA,
    MANIFEST,
    STATE,
    WEIGHTS,
    checkpoints,
    load_state,
    point_to,
    pointed_to,
    prune,
    save_checkpoint,
    verify,
)
from shufflenet_fn.convert.torchvision import from_torchvision
from shufflenet_fn.distributed.group import tree_digest
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn.training import schedules
from shufflenet_fn.training.loss_scale import LossScaling
from shufflenet_fn.training.optim import GradientTransformation, chain, clip_by_global_norm, sgd
from shufflenet_fn.training.state import TrainState, create_train_state
from shufflenet_fn.training.step import Examples, make_train_step, no_flags
from shufflenet_fn.tree import tree_leaves, tree_map
from tests.model.support import (
    TINY,
    assert_trees_equal,
    examples,
    tiny_variables,
    unchanged,
)

DYNAMIC = LossScaling("dynamic", initial=128.0, growth_interval=2)
NOTE = {"arch": "tiny", "settings": {"lr": 0.1}, "scores": None, "text": 'ü"\\'}
Names = set[str]


def optimizer(*, momentum: float = 0.9, clip: bool = True) -> GradientTransformation:
    rule = sgd(schedules.constant(0.01), momentum=momentum)
    return chain(clip_by_global_norm(1.0), rule) if clip else rule


def fresh(
    *,
    seed: int = 0,
    momentum: float = 0.9,
    clip: bool = True,
    scaling: LossScaling | None = DYNAMIC,
    ema: bool = True,
    dtype: torch.dtype = torch.float32,
) -> TrainState:
    return create_train_state(
        tiny_variables(seed, dtype=dtype),
        optimizer(momentum=momentum, clip=clip),
        loss_scaling=scaling,
        ema=ema,
    )


def trained(steps: int = 3, **options: Any) -> TrainState:
    """A state in which no two parts are equal."""
    state = fresh(**options)
    step = make_train_step(TINY, optimizer(), loss_scaling=DYNAMIC, ema_decay=0.9)
    for seed in range(steps):
        state, _, _ = step(state, Examples(*examples(4, seed=seed)), no_flags())
    return state


def at_step(state: TrainState, step: int) -> TrainState:
    return state._replace(step=torch.tensor(step))


def names(folder: Path) -> Names:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for tests that leave it as it is."""
    return save_checkpoint(tmp_path_factory.mktemp("kept"), TINY, trained(), NOTE)


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


def test_values_that_are_not_numbers_come_back_too(folder: Path) -> None:
    state = fresh()
    state.params["fc"]["bias"][:3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    back = load_state(save_checkpoint(folder, TINY, state, NOTE), TINY, fresh(seed=5))
    assert tree_digest(back) == tree_digest(state)


def test_training_goes_on_as_if_never_interrupted(folder: Path) -> None:
    step = make_train_step(TINY, optimizer(), loss_scaling=DYNAMIC, ema_decay=0.9)
    state = trained()
    back = load_state(save_checkpoint(folder, TINY, state, NOTE), TINY, fresh(seed=5))
    for seed in (7, 8):
        batch = Examples(*examples(4, seed=seed))
        state, back = (step(each, batch, no_flags())[0] for each in (state, back))
    assert tree_digest(back) == tree_digest(state)


def test_leaves_are_matched_by_path_and_not_by_position(kept: Path) -> None:
    """A state with its keys in another order, as after a round trip through sorted keys."""

    def reordered(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: reordered(tree[key]) for key in sorted(tree)}
        return tree

    like = fresh(seed=5)
    like = like._replace(params=reordered(like.params), batch_stats=reordered(like.batch_stats))
    assert list(like.params["conv1"]["bn"]) != list(trained().params["conv1"]["bn"])
    assert_trees_equal(load_state(kept, TINY, like), trained())


def test_channels_last_weights_are_stored(folder: Path) -> None:
    state = fresh()
    state = state._replace(
        params=tree_map(
            lambda p: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p,
            state.params,
        )
    )
    back = load_state(save_checkpoint(folder, TINY, state, NOTE), TINY, fresh(seed=5))
    assert_trees_equal(back, state)


def test_leaves_that_share_a_buffer_are_stored(folder: Path) -> None:
    """Leaves of a reduced tree are views of one flat buffer; safetensors refuses such."""
    state = fresh()
    leaves = tree_leaves(state.batch_stats)
    flat = torch.cat([leaf.reshape(-1) for leaf in leaves])
    views = iter(torch.split(flat, [leaf.numel() for leaf in leaves]))
    state = state._replace(batch_stats=tree_map(lambda _: next(views), state.batch_stats))
    back = load_state(save_checkpoint(folder, TINY, state, NOTE), TINY, fresh(seed=5))
    assert_trees_equal(back, state)


def test_the_manifest_says_what_it_was_given_and_hashes_everything(kept: Path) -> None:
    manifest = verify(kept)
    assert {key: manifest[key] for key in NOTE} == NOTE
    assert (manifest["format"], manifest["step"]) == (1, 3)
    assert set(manifest["sha256"]) == {WEIGHTS, EMA, STATE}
    for name, sha in manifest["sha256"].items():
        assert hashlib.sha256((kept / name).read_bytes()).hexdigest() == sha
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


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(folder: Path) -> None:
    """In containers process numbers repeat, so a resumed run meets its own unfinished folder."""
    left = folder / f".step-00000004.partial-{os.getpid()}"
    left.mkdir(parents=True)
    (left / WEIGHTS).write_bytes(b"half")
    verify(save_checkpoint(folder, TINY, at_step(fresh(), 4), NOTE))
    assert names(folder) == {"step-00000004"}


def copy_of(checkpoint: Path, target: Path) -> Path:
    target.mkdir()
    for file in checkpoint.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def extend(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def into_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", [WEIGHTS, EMA, STATE, MANIFEST])
@pytest.mark.parametrize(
    "damage", [Path.unlink, truncate, empty, extend, flip, into_folder], ids=lambda f: f.__name__
)
def test_damage_is_detected(
    kept: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    checkpoint = copy_of(kept, tmp_path / "copy")
    verify(checkpoint)
    damage(checkpoint / name)
    with pytest.raises(UserError, match="is damaged") as error:
        verify(checkpoint)
    assert str(checkpoint) in str(error.value)
    with pytest.raises(UserError, match="is damaged"):
        load_state(checkpoint, TINY, fresh())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_changed_byte_anywhere_is_detected(kept: Path, data: st.DataObject) -> None:
    file = kept / data.draw(st.sampled_from([WEIGHTS, EMA, STATE, MANIFEST]))
    content = file.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(1, 255))
    changed = bytearray(content)
    changed[position] ^= value
    file.write_bytes(changed)
    try:
        with pytest.raises(UserError, match="is damaged"):
            verify(kept)
    finally:
        file.write_bytes(content)
    verify(kept)


def test_one_changed_bit_anywhere_in_the_manifest_is_detected(kept: Path) -> None:
    file = kept / MANIFEST
    content = file.read_bytes()
    unseen = []
    try:
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 1 << position % 8
            file.write_bytes(changed)
            try:
                verify(kept)
                unseen.append(position)
            except UserError:
                pass
    finally:
        file.write_bytes(content)
    assert len(content) > 400 and unseen == []


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b'{"sha256": 3}', b'{"sha256": {}}'])
def test_a_manifest_of_another_kind_is_damage(kept: Path, tmp_path: Path, content: bytes) -> None:
    checkpoint = copy_of(kept, tmp_path / "copy")
    (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"momentum": 0.0}, "momentum"),
        ({"clip": False}, "momentum"),
        ({"scaling": None}, "loss_scale"),
        ({"dtype": torch.float16}, "momentum"),
    ],
    ids=str,
)
def test_other_settings_are_named(kept: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match="was written with other settings") as error:
        load_state(kept, TINY, fresh(**options))
    assert named in str(error.value) and str(kept) in str(error.value)


def test_a_checkpoint_without_an_average_cannot_give_one(folder: Path) -> None:
    checkpoint = save_checkpoint(folder, TINY, fresh(ema=False), NOTE)
    with pytest.raises(UserError, match="was written with other settings") as error:
        load_state(checkpoint, TINY, fresh(ema=True))
    assert EMA in str(error.value)


def test_another_architecture_is_named(kept: Path) -> None:
    for other in (replace(TINY, num_classes=6), replace(TINY, stage_repeats=(2, 3, 2))):
        like = create_train_state(
            tiny_variables(config=other), optimizer(), loss_scaling=DYNAMIC, ema=True
        )
        with pytest.raises(UserError):
            load_state(kept, other, like)
        # Without velocities, whose shapes differ as well, it is the weights that do not fit.
        bare = sgd(schedules.constant(0.01))
        like = create_train_state(tiny_variables(config=other), bare)
        plain = save_checkpoint(
            kept.parent / "plain", TINY, create_train_state(tiny_variables(), bare), NOTE
        )
        with pytest.raises(UsageError, match="do not fit the architecture"):
            load_state(plain, other, like)


def test_checkpoints_are_listed_newest_first(folder: Path) -> None:
    assert checkpoints(folder) == []
    for step in (30, 4, 200, 99_999_999):
        save_checkpoint(folder, TINY, at_step(fresh(ema=False), step), NOTE)
    point_to(folder, "latest", folder / "step-00000200")
    found = [path.name for path in checkpoints(folder)]
    assert found == ["step-99999999", "step-00000200", "step-00000030", "step-00000004"]


def stub(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"step-{step:08d}").mkdir(parents=True)
        (folder / f"step-{step:08d}" / MANIFEST).write_text("{}")


@pytest.mark.parametrize(
    ("best", "keep", "left"),
    [
        (1, 2, {1, 4, 5}),
        (5, 2, {4, 5}),
        (None, 1, {5}),
        (2, 0, {2}),
        (3, 9, {1, 2, 3, 4, 5}),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(
    folder: Path, best: int | None, keep: int, left: set[int]
) -> None:
    stub(folder, 1, 2, 3, 4, 5)
    if best:
        point_to(folder, "best", folder / f"step-{best:08d}")
    prune(folder, keep)
    assert {int(path.name.removeprefix("step-")) for path in checkpoints(folder)} == left


def test_a_pointer_names_one_checkpoint_and_moves(folder: Path) -> None:
    stub(folder, 1, 2)
    assert pointed_to(folder, "latest") is None
    for step in (1, 2, 1):
        point_to(folder, "latest", folder / f"step-{step:08d}")
        assert pointed_to(folder, "latest") == folder / f"step-{step:08d}"
    assert pointed_to(folder, "best") is None
    assert names(folder) == {"step-00000001", "step-00000002", "latest.json"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"3"])
def test_a_damaged_pointer_points_nowhere(folder: Path, content: bytes) -> None:
    stub(folder, 1)
    (folder / "latest.json").write_bytes(content)
    assert pointed_to(folder, "latest") is None


def test_a_file_in_the_way_is_one_clear_error(folder: Path) -> None:
    folder.write_text("in the way")
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        save_checkpoint(folder, TINY, fresh(), NOTE)
    assert folder.read_text() == "in the way"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to be a full disk")
def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new files are led to /dev/full, which the kernel answers with 'No space left on device'."""
    old = save_checkpoint(folder, TINY, at_step(fresh(), 4), NOTE)
    point_to(folder, "latest", old)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    real = store._write_durably

    def to_full_disk(path: Path, content: bytes) -> None:
        if path.name == STATE:
            path.symlink_to("/dev/full")
        real(path, content)

    monkeypatch.setattr(store, "_write_durably", to_full_disk)
    for step in (4, 5):
        with pytest.raises(UserError, match="No space left on device"):
            save_checkpoint(folder, TINY, at_step(trained(), step), NOTE)
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        assert names(folder) == {"step-00000004", "latest.json"}
    assert pointed_to(folder, "latest") == old
    assert verify(old)["step"] == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_leaves_what_was_there(folder: Path) -> None:
    old = save_checkpoint(folder, TINY, at_step(fresh(), 4), NOTE)
    folder.chmod(0o500)
    try:
        with pytest.raises(UserError, match=os.strerror(errno.EACCES)):
            save_checkpoint(folder, TINY, at_step(fresh(), 5), NOTE)
    finally:
        folder.chmod(0o700)
    assert names(folder) == {old.name}
    verify(old)


def test_a_manifest_that_is_no_json_leaves_nothing_behind(folder: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(folder, TINY, fresh(), {"settings": {1, 2}})
    assert names(folder) == set()
