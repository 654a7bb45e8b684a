from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.opening import open_split, open_train_val
from shufflenet_fn.data.packed.destination import LOCK_NAME, PLAN_NAME, claimed
from shufflenet_fn.data.packed.index import (
    INDEX_NAME,
    KIND,
    PackSettings,
    read_index,
    read_sealed,
    write_sealed,
)
from shufflenet_fn.data.packed.read import open_packed
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn.data.packed.write import Report, pack
from shufflenet_fn_backends.support.errors import UsageError, UserError

from .conftest import JPEG, RAW


class Stop(Exception):
    """Ends packing as if something had failed."""


def stop_after(images: int) -> Report:
    """A report that ends packing after so many images."""
    left = images

    def report(split: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    return report


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the index, whose date differs. The lock is there on both sides and is empty."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != INDEX_NAME}


def same_set(one: Path, other: Path) -> None:
    assert content(one) == content(other)
    first, second = read_index(one), read_index(other)
    assert first._replace(provenance={}) == second._replace(provenance={})


@pytest.fixture
def source(photo_root: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return Path(shutil.copytree(photo_root, tmp_path / "source"))


def test_only_shards_entries_and_index_are_left(packed_once: Path, settings: PackSettings) -> None:
    index = read_index(packed_once)
    listed = {INDEX_NAME, LOCK_NAME}
    for split in index.splits.values():
        assert len(split.shards) > 1
        listed |= {split.entries.name, *(shard.name for shard in split.shards)}
    assert {path.name for path in packed_once.iterdir()} == listed
    assert index.settings == settings


def test_order_labels_classes_and_names_are_the_folders(photo_root: Path, packed_once: Path) -> None:
    for folder, packed in zip(open_train_val(photo_root), open_train_val(packed_once), strict=True):
        assert (packed.split, packed.classes, len(packed)) == (folder.split, folder.classes, len(folder))
        np.testing.assert_array_equal(packed.labels, folder.labels)
        for index in range(len(folder)):
            assert packed.name(index).endswith(f"({os.path.relpath(folder.name(index), photo_root)})")


@pytest.mark.parametrize("workers", [1, 7])
def test_number_of_workers_does_not_change_bytes(
    photo_root: Path, packed_once: Path, settings: PackSettings, tmp_path: Path, workers: int
) -> None:
    pack(photo_root, tmp_path / "x", settings, workers=workers)
    same_set(tmp_path / "x", packed_once)


@pytest.mark.parametrize("images", [1, 9, 22, 23, 24, 30, 34])
def test_interrupted_run_continues(
    photo_root: Path, packed_once: Path, settings: PackSettings, tmp_path: Path, images: int
) -> None:
    with pytest.raises(Stop):
        pack(photo_root, tmp_path / "x", settings, workers=2, report=stop_after(images))
    for opened in (open_train_val, lambda root: open_split(root, "train")):
        with pytest.raises(UsageError, match=r"half packed: `data pack` was interrupted.*goes on"):
            opened(tmp_path / "x")
    done: list[tuple[str, int, int]] = []
    packed = pack(
        photo_root, tmp_path / "x", settings, workers=2, report=lambda *progress: done.append(progress)
    )
    assert packed.images_resumed + len(done) == 34
    assert packed.images_resumed <= images
    assert images < 9 or packed.images_resumed > 0
    same_set(tmp_path / "x", packed_once)


def test_leftovers_and_damaged_parts_are_not_used(
    photo_root: Path, packed_once: Path, settings: PackSettings, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        pack(photo_root, tmp_path / "x", settings, workers=2, report=stop_after(30))
    (tmp_path / "x" / "train-00001.part.npz").write_bytes(b"PK half a zip file")
    (tmp_path / "x" / "train-00009.tar").write_bytes(b"no part says it is complete")
    (tmp_path / "x" / "train-00009.tar.tmp").write_bytes(b"being written")
    (tmp_path / "x" / ".val.entries.partial").write_bytes(b"being written")
    pack(photo_root, tmp_path / "x", settings, workers=2)
    same_set(tmp_path / "x", packed_once)


def test_a_complete_set_is_left_as_it_is(photo_root: Path, packed: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in packed.iterdir() if path.name != LOCK_NAME}

    before = times()
    assert pack(photo_root, packed, read_index(packed).settings, workers=1).was_complete
    assert times() == before


def begun(source: Path, folder: Path, complete: bool) -> Path:
    """``folder``, packed from ``source`` as JPEGs, or interrupted after nine of them."""
    if complete:
        pack(source, folder, JPEG, workers=2)
    else:
        with pytest.raises(Stop):
            pack(source, folder, JPEG, workers=2, report=stop_after(9))
    return folder


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_need_overwrite(photo_root: Path, tmp_path: Path, complete: bool) -> None:
    folder = begun(photo_root, tmp_path / "x", complete)
    with pytest.raises(UsageError, match=r"format was jpeg, now it is raw.*--overwrite"):
        pack(photo_root, folder, RAW, workers=2)
    pack(photo_root, folder, RAW, workers=2, overwrite=True)
    pack(photo_root, tmp_path / "fresh", RAW, workers=2)
    same_set(folder, tmp_path / "fresh")


@pytest.mark.parametrize("change", ["touch", "remove", "add", "rename"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_changed_source_is_refused(source: Path, tmp_path: Path, change: str, complete: bool) -> None:
    folder = begun(source, tmp_path / "x", complete)
    image = source / "train" / "ant" / "0.jpg"
    if change == "touch":
        os.utime(image, ns=(1, 1))
    elif change == "remove":
        image.unlink()
    elif change == "rename":
        image.rename(image.with_name("000.jpg"))
    else:
        shutil.copy(image, image.with_name("00.jpg"))
    with pytest.raises(UsageError, match=r"files of the source's train/ were"):
        pack(source, folder, JPEG, workers=2)


@pytest.mark.parametrize("change", ["mend", "remove", "add"])
def test_images_after_finished_shards_may_change(source: Path, tmp_path: Path, change: str) -> None:
    bad = source / "val" / "cat" / "3.jpg"
    right = bad.read_bytes()
    bad.write_bytes(right[:300])
    with pytest.raises(UserError, match=str(bad)):
        pack(source, tmp_path / "x", RAW, workers=2)
    assert not list((tmp_path / "x").glob("*.tmp"))
    if change == "remove":
        bad.unlink()
    else:
        bad.write_bytes(right)
    if change == "add":  # behind the last image of a split whose shards are all finished
        (source / "train" / "cat" / "9.jpg").write_bytes(right)
    assert pack(source, tmp_path / "x", RAW, workers=2).images_resumed >= 12
    pack(source, tmp_path / "fresh", RAW, workers=2)
    same_set(tmp_path / "x", tmp_path / "fresh")


def test_changed_classes_and_library_versions_are_refused(source: Path, tmp_path: Path) -> None:
    folder = begun(source, tmp_path / "x", False)
    plan = read_sealed(folder / PLAN_NAME)
    libraries = {**plan["libraries"], "simplejpeg": "0.0.1"}
    write_sealed(folder / PLAN_NAME, {**plan, "libraries": libraries})
    with pytest.raises(UsageError, match=r"simplejpeg was 0\.0\.1, now it is"):
        pack(source, folder, JPEG, workers=1)
    write_sealed(folder / PLAN_NAME, {"settings": [], "source": None})
    with pytest.raises(UsageError, match="half packed, but not as asked for"):
        pack(source, folder, JPEG, workers=1)
    write_sealed(folder / PLAN_NAME, plan)
    (source / "train" / "bee").rename(source / "train" / "dog")
    with pytest.raises(UsageError, match="class folders of the source were"):
        pack(source, folder, JPEG, workers=2)


@pytest.mark.parametrize("complete", [True, False])
def test_version_2_is_refused_and_overwritten(photo_root: Path, tmp_path: Path, complete: bool) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    name = INDEX_NAME if complete else PLAN_NAME
    old = {"kind": KIND, "version": 2, "provenance": {"source": str(photo_root)}}
    (folder / name).write_text(json.dumps(old))
    (folder / "train-00000.array_record").touch()
    with pytest.raises(UserError, match=r"version 2 .* reads version 3.*data pack \S+ \S+ --overwrite"):
        pack(photo_root, folder, JPEG, workers=2)
    pack(photo_root, folder, JPEG, workers=2, overwrite=True)
    pack(photo_root, tmp_path / "fresh", JPEG, workers=2)
    same_set(folder, tmp_path / "fresh")


def test_a_source_image_that_vanishes_is_named(source: Path, tmp_path: Path) -> None:
    gone = source / "val" / "cat" / "5.jpg"
    with pytest.raises(UserError, match=str(gone)):
        pack(source, tmp_path / "x", RAW, workers=1, report=lambda *progress: gone.unlink(missing_ok=True))


@pytest.mark.parametrize("interrupted", [False, True])
def test_skipped_bad_images_are_listed(source: Path, tmp_path: Path, interrupted: bool) -> None:
    bad = ["ant/0.jpg", "bee/4.jpg", "cat/5.jpg"]  # the first, one in the middle, the last
    for name in bad:
        (source / "train" / name).write_bytes(b"no image")
    unreadable = source / "train" / "bee" / "7.jpg"
    unreadable.unlink()
    unreadable.symlink_to("nowhere")
    bad.insert(2, "bee/7.jpg")
    if interrupted:
        with pytest.raises(Stop):
            pack(source, tmp_path / "x", RAW, workers=2, skip_bad_images=True, report=stop_after(20))
    index = pack(source, tmp_path / "x", RAW, workers=2, skip_bad_images=True).index
    assert list(index.splits["train"].left_out) == bad
    train = open_packed(tmp_path / "x", "train")
    assert len(train) == 19
    for position in range(19):
        train.read(position)
        name = train.original(position)
        assert name.removeprefix("train/") not in bad
        assert name.split("/")[1] == train.classes[train.labels[position]]
    assert not verify(tmp_path / "x", workers=1).damage


@pytest.mark.parametrize("complete", [True, False])
def test_set_without_bad_images_is_refused_by_stop(source: Path, tmp_path: Path, complete: bool) -> None:
    (source / "train" / "ant" / "0.jpg").write_bytes(b"no image")
    (source / "train" / "ant" / "2.jpg").write_bytes(b"no image")
    report = stop_after(99 if complete else 20)
    with nullcontext() if complete else pytest.raises(Stop):
        pack(source, tmp_path / "x", RAW, workers=2, skip_bad_images=True, report=report)
    with pytest.raises(
        UsageError, match=r"without 2 bad images: train/ant/0\.jpg, train/ant/2\.jpg\. Pass --on-bad"
    ):
        pack(source, tmp_path / "x", RAW, workers=2)
    pack(source, tmp_path / "x", RAW, workers=2, skip_bad_images=True)
    with pytest.raises(BadImage):
        pack(source, tmp_path / "x", RAW, workers=2, overwrite=True)


def test_split_of_bad_images_alone_is_refused(source: Path, tmp_path: Path) -> None:
    for image in (source / "val").rglob("*.jpg"):
        image.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 11 images"):
        pack(source, tmp_path / "x", JPEG, workers=2, skip_bad_images=True)
    with pytest.raises(UsageError, match="half packed"):
        open_packed(tmp_path / "x", "train")


def test_a_folder_with_something_else_is_not_touched(photo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"something other than packed data: thesis\.tex"):
            pack(photo_root, tmp_path, JPEG, workers=1, overwrite=overwrite)
    with pytest.raises(UsageError, match="is a file"):
        pack(photo_root, tmp_path / "thesis.tex", JPEG, workers=1)
    with pytest.raises(UserError, match=r"cannot write packed data to .*Not a directory\. Check that path"):
        pack(photo_root, tmp_path / "thesis.tex" / "x", JPEG, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("place", "destination", "words"),
    [
        *(("source", f"source/{below}", "lies in the source") for below in ("", "train", "train/x")),
        ("source", "", "a folder of its own"),
        ("nowhere", "x", "nowhere does not exist"),
    ],
)
def test_places_that_are_refused(
    source: Path, tmp_path: Path, place: str, destination: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        pack(tmp_path / place, tmp_path / destination, JPEG, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert not (source / "train" / "x").exists()


def test_a_packed_set_is_not_packed_again(packed_once: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a packed data set"):
        pack(packed_once, tmp_path / "x", JPEG, workers=1)


def test_two_at_once_are_refused(photo_root: Path, tmp_path: Path) -> None:
    with claimed(tmp_path):
        held = (tmp_path / LOCK_NAME).stat().st_ino
        with pytest.raises(UserError, match="another process is packing"):
            pack(photo_root, tmp_path, JPEG, workers=1)
    # Were it removed, one who waits for it and one who comes later would hold different files.
    assert (tmp_path / LOCK_NAME).stat().st_ino == held


def test_any_file_name_is_packed_and_shown(source: Path, tmp_path: Path) -> None:
    folder = os.fsencode(source / "train" / "cat")
    image = (source / "train" / "cat" / "0.jpg").read_bytes()
    for name in (b"\xff.jpg", b"two words\nand a line.jpg", "größe 東京.jpg".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(image)
    pack(source, tmp_path / "x", JPEG, workers=2)
    train = open_packed(tmp_path / "x", "train")
    names = {train.original(index) for index in range(len(train))}
    assert {
        r"train/cat/\xff.jpg",
        r"train/cat/two words\nand a line.jpg",
        "train/cat/größe 東京.jpg",
    } <= names
    assert not verify(tmp_path / "x", workers=1).damage
