"""Listings that are kept: true at every start, checked, made by one process, small in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import pytest

from shufflenet_fn.data import listing_cache, listing_versions
from shufflenet_fn.data.bad_images import UnreadableImage
from shufflenet_fn.data.listing import Directory, Listing, list_split
from shufflenet_fn.data.listing_cache import cached_listing
from shufflenet_fn.data.listing_file import Kept, KeptListingError, read_listing, write_listing
from shufflenet_fn.data.paths import PathTable, printable
from shufflenet_fn.data.sources import open_image_folder, open_train_val
from shufflenet_fn_backends.support.errors import DeviceError, UsageError
from tests.unprivileged import unprivileged

from .conftest import WriteTree

LONG_AGO = 1_600_000_000
FILES = {
    "train/a/1.jpg": b"",
    "train/a/2.jpg": b"",
    "train/b/sub/1.png": b"",
    "train/b/3.JPEG": b"",
}
PATHS = ["a/1.jpg", "a/2.jpg", "b/3.JPEG", "b/sub/1.png"]


@pytest.fixture
def split(tree: WriteTree) -> Path:
    """A split that was last changed long ago."""
    folder = tree(FILES) / "train"
    age(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def age(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            os.utime(path, (LONG_AGO, LONG_AGO))


def kept_file(cache: Path) -> Path:
    """The current one of the only split."""
    (pointer,) = (cache / "listings").glob("*.current")
    return pointer.with_name(pointer.read_text().strip())


@contextmanager
def unlistable() -> Iterator[None]:
    """No folder can be listed: what is still opened comes from the cache."""

    def refuse(folder: Path) -> Listing:
        raise AssertionError(f"{folder} was listed again")

    patch = pytest.MonkeyPatch()
    patch.setattr(listing_cache, "list_split", refuse)
    try:
        yield
    finally:
        patch.undo()


def test_the_second_start_lists_nothing_and_says_nothing(split: Path, cache: Path) -> None:
    notes: list[str] = []
    first = cached_listing(split, note=notes.append, cache_root=cache)
    with unlistable():
        second = cached_listing(split, note=notes.append, cache_root=cache)
    assert list(first.paths) == list(second.paths) == PATHS
    assert first.classes == second.classes == ("a", "b")
    assert first.labels.tolist() == second.labels.tolist() == [0, 0, 1, 1]
    assert second.counts.tolist() == [2, 2]
    assert not second.labels.flags.writeable
    assert first.directories == second.directories
    assert notes == []


CHANGES = {
    "file added": lambda f: (f / "a/0.jpg").touch(),
    "file removed": lambda f: (f / "a/1.jpg").unlink(),
    "file renamed": lambda f: (f / "a/1.jpg").rename(f / "a/9.jpg"),
    "file added deep below": lambda f: (f / "b/sub/2.png").touch(),
    "class added": lambda f: ((f / "c").mkdir(), (f / "c/1.jpg").touch()),
    "class renamed": lambda f: (f / "b").rename(f / "z"),
    "class removed": lambda f: [
        (f / "a/1.jpg").unlink(),
        (f / "a/2.jpg").unlink(),
        (f / "a").rmdir(),
    ],
    "moved between classes": lambda f: (f / "a/1.jpg").rename(f / "b/1.jpg"),
    "folder replaced by one of the same time": lambda f: swap(f / "a"),
}


def swap(folder: Path) -> None:
    status = folder.stat()
    parent = folder.parent.stat()
    folder.rename(folder.with_name("old"))
    folder.mkdir()
    (folder / "new.jpg").touch()
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
    for file in (folder.parent / "old").iterdir():
        file.unlink()
    (folder.parent / "old").rmdir()
    os.utime(folder.parent, ns=(parent.st_atime_ns, parent.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_and_said(split: Path, cache: Path, change: str) -> None:
    before = cached_listing(split, cache_root=cache)
    CHANGES[change](split)
    notes: list[str] = []
    after = cached_listing(split, note=notes.append, cache_root=cache)
    assert list(after.paths) == list(list_split(split).paths) != list(before.paths)
    assert after.classes == list_split(split).classes
    (note,) = notes
    assert "has changed since it was listed" in note or "is gone" in note
    assert note.endswith(f"listing {split} again")


def test_a_change_of_content_alone_is_not_looked_at(split: Path, cache: Path) -> None:
    cached_listing(split, cache_root=cache)
    (split / "a/1.jpg").write_bytes(b"other")
    with unlistable():
        assert list(cached_listing(split, cache_root=cache).paths) == PATHS


def test_a_folder_changed_just_before_it_was_listed_is_not_trusted(
    tree: WriteTree, cache: Path
) -> None:
    """Its time would be the same if it had changed once more in the same tick of the clock."""
    split = tree(FILES) / "train"
    cached_listing(split, cache_root=cache)
    status = (split / "a").stat()
    (split / "a/3.jpg").touch()
    os.utime(split / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "a/3.jpg" in list(cached_listing(split, cache_root=cache).paths)


@pytest.mark.parametrize(("ahead_s", "trusted"), [(-3600, True), (3600, False), (10**8, True)])
def test_folders_of_another_clock(split: Path, cache: Path, ahead_s: int, trusted: bool) -> None:
    """A file server may be some hours ahead; a year in the future is an archive's doing."""
    then = time.time() + ahead_s
    os.utime(split / "a", (then, then))
    cached_listing(split, cache_root=cache)
    listed: list[Path] = []

    def counted(folder: Path) -> Listing:
        listed.append(folder)
        return list_split(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing_cache, "list_split", counted)
        assert list(cached_listing(split, cache_root=cache).paths) == PATHS
    assert listed == ([] if trusted else [split])


def test_a_file_system_without_locks_is_said(
    split: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(self: filelock.FileLock, timeout: float) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    notes: list[str] = []
    listing = cached_listing(split, note=notes.append, cache_root=cache)
    assert list(listing.paths) == PATHS
    assert "does not appear to support flock" in notes[0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_any_damage_to_the_kept_file_is_noticed(split: Path, cache: Path, share: float) -> None:
    cached_listing(split, cache_root=cache)
    file = kept_file(cache)
    data = bytearray(file.read_bytes())
    data[min(len(data) - 1, int(share * len(data)))] ^= 4
    file.write_bytes(data)
    notes: list[str] = []
    assert list(cached_listing(split, note=notes.append, cache_root=cache).paths) == PATHS
    assert len(notes) == 1
    assert f"the kept listing of {split} cannot be used" in notes[0]
    with unlistable():  # and it was mended
        cached_listing(split, cache_root=cache)


@pytest.mark.parametrize("length", [0, 7, 16, 100, -1])
def test_a_kept_file_cut_short_is_noticed(split: Path, cache: Path, length: int) -> None:
    cached_listing(split, cache_root=cache)
    file = kept_file(cache)
    os.truncate(file, length if length >= 0 else file.stat().st_size - 1)
    with pytest.raises(KeptListingError):
        read_listing(file)
    assert list(cached_listing(split, cache_root=cache).paths) == PATHS


def test_a_cache_that_cannot_be_written_is_said(split: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    notes: list[str] = []
    for root in (tmp_path / "file", Path("/proc/shufflenet")):
        listing = cached_listing(split, note=notes.append, cache_root=root)
        assert list(listing.paths) == PATHS
    assert len(notes) == 2
    assert all("cannot be kept" in note and "XDG_CACHE_HOME" in note for note in notes)


def test_a_user_without_a_home_still_trains(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise DeviceError("no folder for caches")

    monkeypatch.setattr(listing_cache, "default_cache_root", homeless)
    notes: list[str] = []
    assert list(cached_listing(split, note=notes.append).paths) == PATHS
    assert notes == [f"the listing of {split} is not kept: no folder for caches"]


WORKER = """
import sys, time
from pathlib import Path
from shufflenet_fn.data import listing_cache
real = listing_cache.list_split
def slow(folder):
    print("listed", flush=True)
    time.sleep(1)
    return real(folder)
listing_cache.list_split = slow
print(len(listing_cache.cached_listing(Path(sys.argv[1]), cache_root=Path(sys.argv[2])).labels))
"""


def test_of_several_processes_one_lists(split: Path, cache: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(split), str(cache)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [worker.communicate(timeout=300)[0].split() for worker in workers]
    assert sorted(said) == [["4"], ["4"], ["4"], ["listed", "4"]]


def test_a_killed_writer_leaves_the_old_file(
    split: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_listing(split, cache_root=cache)
    file = kept_file(cache)
    before = file.read_bytes()

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_listing(file, read_listing(file))
    assert file.read_bytes() == before
    assert {path.suffix for path in file.parent.iterdir() if path != file} == {".lock", ".current"}


def test_a_listing_in_use_outlives_its_successors_and_goes_in_time(
    split: Path, cache: Path
) -> None:
    first = cached_listing(split, cache_root=cache)
    files, content = [kept_file(cache)], kept_file(cache).read_bytes()
    for name in ("x.jpg", "y.jpg"):
        (split / "a" / name).touch()
        cached_listing(split, cache_root=cache)
        files.append(kept_file(cache))
    assert len(set(files)) == 3
    assert files[0].read_bytes() == content
    assert list(first.paths) == PATHS

    expired = time.time() - listing_versions.KEPT_S - 60
    os.utime(files[0], (expired, expired))
    os.utime(files[2], (expired, expired))  # current for so long: it is superseded only now
    (split / "a" / "z.jpg").touch()
    cached_listing(split, cache_root=cache)
    assert [file.exists() for file in files] == [False, True, True]


def test_machines_with_different_folders_of_one_path_do_not_share(split: Path, cache: Path) -> None:
    """As with a scratch disk of each machine's own below a home that they share."""
    cached_listing(split, cache_root=cache)
    here, there = split.with_name("here"), split.with_name("there")
    split.rename(here)
    shutil.copytree(here, there)
    (there / "a/1.jpg").unlink()
    age(there)
    there.rename(split)
    assert list(cached_listing(split, cache_root=cache).paths) == PATHS[1:]
    split.rename(there)
    here.rename(split)
    with unlistable():
        assert list(cached_listing(split, cache_root=cache).paths) == PATHS


def test_a_long_wait_for_another_process_is_said(
    split: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_cache, "_SILENT_WAIT_S", 0.05)
    cached_listing(split, cache_root=cache)
    (lock,) = (cache / "listings").glob("*.lock")
    (split / "a/0.jpg").touch()
    said = threading.Event()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        said.set()

    with ThreadPoolExecutor(1) as pool:
        with filelock.FileLock(lock):
            waiting = pool.submit(cached_listing, split, note=note, cache_root=cache)
            assert said.wait(10)
            assert notes == [f"waiting for another process that lists {split}"]
        assert "a/0.jpg" in list(waiting.result(10).paths)


NAMES = [
    "é.jpg",
    "日本 語.png",
    " leading space.jpg",
    "new\nline.jpg",
    "tab\t.jpg",
    "%s{}.jpg",
    "-.jpg",
]


def test_any_name_is_listed_kept_and_read(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "data" / "train" / "größe 1"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(name.encode())
    raw = os.fsencode(folder) + b"/\xff\xfe latin.jpg"
    with open(raw, "wb") as file:
        file.write(b"raw")
    age(tmp_path / "data" / "train")
    for _ in range(2):  # listed, then from the cache
        images = open_image_folder(tmp_path / "data", "train")
        found = {os.fsencode(images.path(i)): images.read(i).data for i in range(len(images))}
        assert found == {
            raw: b"raw",
            **{os.fsencode(folder / name): name.encode() for name in NAMES},
        }
        shown = [images.name(i) for i in range(len(images))]
        assert all(name.isprintable() for name in shown)
        assert any(name.endswith("\\xff\\xfe latin.jpg") for name in shown)
        assert any(name.endswith("new\\nline.jpg") for name in shown)
        assert any(name.endswith("größe 1/日本 語.png") for name in shown)


def test_links_and_their_loops(split: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "5.jpg").touch()
    (split / "c").symlink_to(tmp_path / "elsewhere")
    (split / "a" / "0.jpg").symlink_to(split / "b" / "3.JPEG")
    (split / "a" / "3.jpg").symlink_to("nowhere")
    (split / "a" / "4.jpg").symlink_to("4.jpg")
    expected = ["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", *PATHS[2:], "c/deep/5.jpg"]
    assert list(list_split(split).paths) == expected
    images = open_image_folder(split.parent, "train")
    assert images.read(0).data == b""
    with pytest.raises(UnreadableImage, match=r"3\.jpg: it is a link to nowhere, which does not"):
        images.read(3)
    with pytest.raises(UnreadableImage, match=r"4\.jpg: Too many levels of symbolic links"):
        images.read(4)


@pytest.mark.parametrize("target", [".", "..", "../..", "../a"])
def test_a_loop_of_folders_is_named(split: Path, target: str) -> None:
    (split / "a" / "loop").symlink_to(target)
    with pytest.raises(UsageError, match=r"a/loop\S* leads, by way of a link, back to a folder"):
        list_split(split)


def test_two_links_to_one_folder_are_no_loop(split: Path) -> None:
    (split / "c").symlink_to("b")
    (split / "d").symlink_to("b")
    assert list_split(split).counts.tolist() == [2, 2, 2, 2]


def test_folders_and_files_that_may_not_be_read(cache: Path) -> None:
    with unprivileged() as root:
        folder = root / "train" / "a"
        folder.mkdir(parents=True)
        (folder / "1.jpg").touch()
        (folder / "1.jpg").chmod(0)
        images = open_image_folder(root, "train")
        with pytest.raises(UnreadableImage, match=r"cannot read image \S*1\.jpg: Permission"):
            images.read(0)
        root.joinpath("train").chmod(0)
        with pytest.raises(UsageError, match=r"cannot look at data folder \S*/train/a: Permission"):
            open_image_folder(folder, "train")
        root.joinpath("train").chmod(0o700)
        folder.chmod(0)
        try:
            message = (
                r"cannot list data folder \S*/train/a: Permission denied\. Check its permissions"
            )
            with pytest.raises(UsageError, match=message):
                list_split(root / "train")
        finally:
            folder.chmod(0o700)


def test_classes_of_the_training_split_label_a_kept_validation_split(tree: WriteTree) -> None:
    root = tree(
        {"train/a/1.jpg": b"", "train/b/1.jpg": b"", "val/b/1.jpg": b"", "val/b/2.jpg": b""}
    )
    age(root)
    for _ in range(2):
        _, val = open_train_val(root)
        assert val.classes == ("a", "b")
        assert val.labels.tolist() == [1, 1]
        assert not val.labels.flags.writeable


def million(folder: Path, classes: int = 1000, each: int = 1000) -> Listing:
    """The listing of a tree of a million files that need not exist."""
    names = [b"n%08d/n%08d_%06d.JPEG" % (c, c, i) for c in range(classes) for i in range(each)]
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    status = folder.stat()
    own = Directory("", status.st_mtime_ns, status.st_ino)
    return Listing(
        classes=tuple(f"n{c:08d}" for c in range(classes)),
        counts=np.full(classes, each, np.int64),
        blob=np.frombuffer(b"".join(names), np.uint8),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        labels=np.repeat(np.arange(classes), each),
        stray=0,
        directories=(own,),
    )


def test_a_million_images_open_at_once_and_take_no_memory(tmp_path: Path, cache: Path) -> None:
    split = tmp_path / "data" / "train"
    split.mkdir(parents=True)
    age(split)
    cached_listing(split, cache_root=cache)  # makes the file's name
    file = kept_file(cache)
    write_listing(file, Kept(os.path.abspath(split), time.time_ns(), million(split)))
    tracemalloc.start()
    start = time.perf_counter()
    with unlistable():
        listing = cached_listing(split, cache_root=cache)
    seconds = time.perf_counter() - start
    assert len(listing.paths) == 1_000_000
    assert listing.paths[123_456] == "n00000123/n00000123_000456.JPEG"
    assert listing.paths[999_999] == "n00000999/n00000999_000999.JPEG"
    assert listing.labels[[0, 999_999]].tolist() == [0, 999]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 3
    assert peak < 4_000_000


def test_paths_out_of_range() -> None:
    table = PathTable(np.frombuffer(b"ab", np.uint8), np.array([0, 1, 2]))
    assert list(table) == ["a", "b"]
    for index in (-1, 2):
        with pytest.raises(IndexError):
            table[index]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a b/é.jpg", "a b/é.jpg"),
        ("a\nb", "a\\nb"),
        (os.fsdecode(b"\xff.jpg"), "\\xff.jpg"),
        ("\x1b[31m", "\\x1b[31m"),
    ],
)
def test_what_cannot_be_printed_is_escaped(path: str, shown: str) -> None:
    assert printable(path) == shown
