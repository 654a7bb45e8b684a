"""Listing image folders: names, links, order, permissions, and folders of another process."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data import folder as image_folder
from shufflenet_fn.data import formats
from shufflenet_fn.data.bad_images import BadImage, UnreadableImage
from shufflenet_fn.data.folder import open_image_folder, open_train_val
from shufflenet_fn.data.listing import list_split
from shufflenet_fn.data.paths import PathTable, printable
from shufflenet_fn_backends.support.errors import UsageError, UserError
from tests.unprivileged import unprivileged

from .conftest import WriteTree

FILES = {"train/a/1.jpg": b"", "train/a/2.jpg": b"", "train/b/sub/1.png": b"", "train/b/3.JPEG": b""}
PATHS = ["a/1.jpg", "a/2.jpg", "b/3.JPEG", "b/sub/1.png"]


@pytest.fixture
def split(tree: WriteTree) -> Path:
    return tree(FILES) / "train"


def test_order_counts_and_labels_of_a_listing(split: Path) -> None:
    listing = list_split(split)
    assert list(listing.paths) == PATHS
    assert listing.classes == ("a", "b")
    assert listing.labels.tolist() == [0, 0, 1, 1]
    assert listing.counts.tolist() == [2, 2]
    assert not listing.labels.flags.writeable
    assert listing.directories == ("", "a", "b", "b/sub")


JPEG = b"\xff\xd8\xff\xe0"


def test_jpegs_are_listed_under_any_name(split: Path) -> None:
    for name in ("3.jfif", "4.jpe", "5", "6.dat", "sub/7.MPO"):
        (split / "a" / name).parent.mkdir(exist_ok=True)
        (split / "a" / name).write_bytes(JPEG)
    for name in ("8.gif", "9.GIF", "10", "11.txt"):
        (split / "a" / name).write_bytes(b"GIF89a")
    os.mkfifo(split / "a" / "12")
    (split / "a" / "13.jfif").symlink_to("nowhere")
    listing = list_split(split)
    expected = ["3.jfif", "4.jpe", "5", "6.dat", "sub/7.MPO"]
    assert list(listing.paths) == [*PATHS[:2], *(f"a/{name}" for name in expected), *PATHS[2:]]
    passed_over = {".gif": 2, "without extension": 2, ".txt": 1, ".jfif": 1}
    assert listing.passed_over == passed_over
    notes: list[str] = []
    open_image_folder(split.parent, "train", note=notes.append)
    counts = "2 .gif, 2 without extension, 1 .jfif, 1 .txt"
    assert [note.split(". JPEGs are read under any name")[0] for note in notes] == [
        f"passed over 6 files below {split}: {counts}"
    ]


def test_files_of_known_extensions_are_not_opened(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(formats, "read_file", lambda path, size: opened.append(path) or b"")
    for extension in formats.IMAGE_EXTENSIONS:
        (split / "b" / f"x{extension.upper()}").touch()
    (split / "b" / "x.other").touch()
    (split / "stray.jpg").touch()
    listing = list_split(split)
    assert len(listing.paths) == len(PATHS) + len(formats.IMAGE_EXTENSIONS)
    assert listing.stray == 1
    assert opened == [str(split / "b" / "x.other")]


def test_no_free_descriptor_is_no_missing_image(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that started without the files that it could not look at would train on other data."""

    def refuse(*args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    (split / "a" / "3.jfif").write_bytes(JPEG)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"cannot read image \S*3\.jfif: Too many open files") as caught:
        list_split(split)
    assert not isinstance(caught.value, BadImage), "a run would go on without it"


def test_each_opening_sees_the_files_of_now(split: Path) -> None:
    before = open_image_folder(split.parent, "train")
    pickled = pickle.dumps(before)
    (split / "a/0.jpg").touch()
    (split / "b/3.JPEG").unlink()
    after = open_image_folder(split.parent, "train")
    assert list(after.paths) == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/sub/1.png"]
    for folder in (before, pickle.loads(pickled)):
        assert list(folder.paths) == PATHS
        assert folder.labels.tolist() == [0, 0, 1, 1]
        assert folder.read(0).data == b""
    with pytest.raises(UserError, match=r"cannot read image \S*train/b/3.JPEG: No such file"):
        before.read(2)


def test_a_slow_listing_is_noted(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    open_image_folder(split.parent, "train", note=notes.append)
    assert notes == []
    monkeypatch.setattr(image_folder, "_SLOW_S", -1.0)
    open_image_folder(split.parent, "train", note=notes.append)
    assert notes == [
        f"listing 4 images below {split} took 0 s, as at each start; `shufflenet-fn data pack` makes "
        "them a few files"
    ]


NAMES = ["é.jpg", "日本 語.png", " leading space.jpg", "new\nline.jpg", "tab\t.jpg", "%s{}.jpg", "-.jpg"]


def test_any_name_is_listed_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train" / "größe 1"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(name.encode())
    raw = os.fsencode(folder) + b"/\xff\xfe latin.jpg"
    with open(raw, "wb") as file:
        file.write(b"raw")
    images = open_image_folder(tmp_path / "data", "train")
    found = {os.fsencode(images.path(i)): images.read(i).data for i in range(len(images))}
    assert found == {raw: b"raw", **{os.fsencode(folder / name): name.encode() for name in NAMES}}
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


def test_folders_and_files_that_may_not_be_read() -> None:
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
            message = r"cannot list data folder \S*/train/a: Permission denied\. Check its permissions"
            with pytest.raises(UsageError, match=message):
                list_split(root / "train")
        finally:
            folder.chmod(0o700)


def test_training_classes_label_the_validation_split(tree: WriteTree) -> None:
    root = tree({"train/a/1.jpg": b"", "train/b/1.jpg": b"", "val/b/1.jpg": b"", "val/b/2.jpg": b""})
    _, val = open_train_val(root)
    assert val.classes == ("a", "b")
    assert val.labels.tolist() == [1, 1]
    assert not val.labels.flags.writeable


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


# ---- listing image folders, and a clear error for every bad layout ----


def test_hidden_names_are_skipped(tree: WriteTree) -> None:
    root = tree({"train/a/1.jpg": b"", "train/a/._1.jpg": b"", "train/.ipynb_checkpoints/1.jpg": b""})
    folder = open_image_folder(root, "train")
    assert folder.classes == ("a",)
    assert tuple(folder.paths) == ("a/1.jpg",)


def test_root_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder \S*nowhere does not exist .*Name the folder .*train/"):
        open_train_val(tmp_path / "nowhere")
    (tmp_path / "data.tar").write_bytes(b"")
    with pytest.raises(UsageError, match=r"data\.tar is a file, not a folder. Unpack it"):
        open_train_val(tmp_path / "data.tar")


@pytest.mark.parametrize(
    ("files", "missing", "found"),
    [
        ({"val/a/1.jpg": b""}, "train", "it has val"),
        ({"train/a/1.jpg": b""}, "val", "it has train"),
        ({"test/a/1.jpg": b"", "validation/a/1.jpg": b""}, "train", "it has test, validation"),
        ({"a.jpg": b""}, "train", "it has no sub-folders"),
        ({f"c{i}/1.jpg": b"" for i in range(8)}, "train", "it has c0, c1, c2, c3, c4 and 3 more"),
        *(
            ({"train/a/1.jpg": b"", f"{name}/a/1.jpg": b""}, "val", f". Rename {name}/ to val/: ")
            for name in ("valid", "validation", "test", "Val", "TEST", "dev")
        ),
        ({"Train/a/1.jpg": b"", "val/a/1.jpg": b""}, "train", ". Rename Train/ to train/: "),
        ({"train/1.jpg": b"", "test/1": b"", "valid/1": b""}, "val", ". Rename valid/ to val/: "),
        ({"pets/train/a/1.jpg": b"", "pets/val/a/1.jpg": b""}, "train", "/pets instead: "),
        ({"train/a/1.jpg": b""}, "val", "it has train. Create it: "),
    ],
)
def test_missing_split(tree: WriteTree, files: dict[str, bytes], missing: str, found: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_train_val(tree(files))
    message = str(caught.value)
    assert f"has no sub-folder {missing}/; " in message
    assert found in message
    assert "expected train/CLASS/*.JPEG and val/CLASS/*.JPEG" in message


def test_split_folder_given_as_root(tree: WriteTree) -> None:
    root = tree({"train/a/1.jpg": b"", "val/a/1.jpg": b""})
    with pytest.raises(UsageError, match=f"Pass its parent, {root}, instead"):
        open_train_val(root / "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["readme.txt"], r"train has no class folder\. Unpack the data set into it"),
        (["1.jpg", "2.jpg"], r"train has 2 images directly in it and no class folder\."),
        (
            ["a/1.jpg", "b/1.txt", "c/x/1.gif"],
            r"any image: b, c\. Passed over in all folders: 1 \.gif, 1 \.txt\. Allowed extensions are \.jpg",
        ),
    ],
)
def test_splits_without_classes_or_images(tree: WriteTree, files: list[str], message: str) -> None:
    root = tree({f"train/{name}": b"" for name in files})
    with pytest.raises(UsageError, match=message):
        open_image_folder(root, "train")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg"), []),
        (
            ("train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/b/1.jpg"),
            [
                "2 of 3 classes without images in val/: a, c. The accuracy says nothing about these; move "
                "some of their images there"
            ],
        ),
        (
            ("train/a/1.jpg", "val/a/1.jpg"),
            [
                "a is the only class: every prediction is right, whatever is learned. Make a folder for each "
                "class in train/"
            ],
        ),
        (
            ("train/a/1.jpg", "train/b/1.jpg", "train/2.jpg", "val/a/1.jpg", "val/b/1.jpg"),
            ["passed over 1 image directly in {root}/train, in no class"],
        ),
    ],
)
def test_what_is_odd_about_classes_is_noted(
    tree: WriteTree, files: tuple[str, ...], expected: list[str]
) -> None:
    notes: list[str] = []
    root = tree(dict.fromkeys(files, b""))
    open_train_val(root, note=notes.append)
    assert notes == [text.format(root=root) for text in expected]


def test_class_only_in_val(tree: WriteTree) -> None:
    root = tree({"train/goldfish/1.jpg": b"", "train/shark/1.jpg": b"", "val/gold_fish/1.jpg": b""})
    with pytest.raises(UsageError) as caught:
        open_train_val(root)
    message = str(caught.value)
    assert "1 class that the training split lacks: gold_fish (did you mean 'goldfish'?)" in message
    assert "The training split has 2: goldfish, shark." in message
