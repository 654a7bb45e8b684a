"""Listing image folders, and a clear error for every bad layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from shufflenet_fn.data.folder import open_image_folder, open_train_val
from shufflenet_fn_backends.support.errors import UsageError, UserError

from .conftest import WriteTree


def test_hidden_names_are_skipped(tree: WriteTree) -> None:
    root = tree({"train/a/1.jpg": b"", "train/a/._1.jpg": b"", "train/.ipynb_checkpoints/1.jpg": b""})
    folder = open_image_folder(root, "train")
    assert folder.classes == ("a",)
    assert tuple(folder.paths) == ("a/1.jpg",)


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder \S*nowhere does not exist .*Name the folder .*train/"):
        open_train_val(tmp_path / "nowhere")


def test_root_is_a_file(tmp_path: Path) -> None:
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


def test_split_without_class_folders(tree: WriteTree) -> None:
    with pytest.raises(UsageError, match=r"train has no class folder\. Unpack the data set into it"):
        open_image_folder(tree({"train/readme.txt": b""}), "train")


def test_images_directly_in_the_split(tree: WriteTree) -> None:
    with pytest.raises(UsageError, match=r"train has 2 images directly in it and no class folder\."):
        open_image_folder(tree({"train/1.jpg": b"", "train/2.jpg": b""}), "train")


def test_classes_without_images_are_named(tree: WriteTree) -> None:
    root = tree({"train/a/1.jpg": b"", "train/b/1.txt": b"", "train/c/x/1.gif": b""})
    message = r"any image: b, c\. Passed over in all folders: 1 \.gif, 1 \.txt\. Allowed extensions are \.jpg"
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


def test_unreadable_file_is_named(tree: WriteTree) -> None:
    folder = open_image_folder(tree({"train/a/1.jpg": b""}), "train")
    folder.path(0).unlink()
    with pytest.raises(UserError, match=r"cannot read image \S*train/a/1.jpg: No such file .* was listed"):
        folder.read(0)
