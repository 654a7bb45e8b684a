"""Bad files of every kind through the loader: named, or replaced the same everywhere; never a hang."""

from __future__ import annotations

import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shufflenet_fn.data.bad_images import (
    BadImage,
    BadImages,
    BadSample,
    UnreadableImage,
    parse_bad_limit,
    replacement,
)
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.decode import decode_rgb
from shufflenet_fn.data.folder import ImageFolder, open_image_folder
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import UsageError, UserError

Damage = Callable[[Path], None]
TRANSFORM = TrainTransform(24)
STEPS = 6  # of 8 from 23 images: 3 epochs


def overwrite(data: bytes) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(data)

    return damage


def truncate(share: float) -> Damage:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def replace_by(make: Callable[[Path], None]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def wrong_scan(path: Path) -> None:
    """Another entropy-coded segment than the header promises: decoders go on with a warning."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff\xd9" * 20
    path.write_bytes(bytes(data))


def bomb(path: Path) -> None:
    """A whole PNG of a few bytes that says it is 50,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = (50_000).to_bytes(4, "big")
    header = chunk(b"IHDR", size + size + b"\x08\x02\x00\x00\x00")
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))


def jpeg_bomb(path: Path) -> None:
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))


BAD: dict[str, Damage] = {
    "empty": overwrite(b""),
    "text": overwrite(b"hello, this is no picture"),
    "html": overwrite(b"<!DOCTYPE html><title>404</title>"),
    "git-lfs pointer": overwrite(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "zeros": overwrite(bytes(3000)),
    "jpeg start only": overwrite(b"\xff\xd8\xff\xe0"),
    "truncated early": truncate(0.1),
    "truncated late": truncate(0.95),
    "damaged scan": wrong_scan,
    "bomb": bomb,
    "jpeg bomb": jpeg_bomb,
    "dangling link": replace_by(lambda path: path.symlink_to("nowhere.jpg")),
    "link to itself": replace_by(lambda path: path.symlink_to(path.name)),
    "named pipe": replace_by(lambda path: os.mkfifo(path)),
    "gone": replace_by(lambda path: None),
    "folder": replace_by(lambda path: path.mkdir()),
    "sparse and huge": lambda path: os.truncate(path, 2**31),
}


@pytest.fixture
def folders(photo_root: Path, tmp_path: Path) -> tuple[ImageFolder, ImageFolder]:
    root = Path(shutil.copytree(photo_root, tmp_path / "copy"))
    train = open_image_folder(root, "train")
    return train, open_image_folder(root, "val", classes=train.classes)


def allow(folder: ImageFolder, limit: str = "40%") -> BadImages:
    return BadImages(folder, parse_bad_limit(limit))


def read(folder: Dataset, bad: BadImages | None, **options: Any) -> list[Batch]:
    settings = {"seed": 5, "global_batch": 8, "stop_step": STEPS, "threads": 0, **options}
    with train_loader(folder, TRANSFORM, **settings, bad_images=bad) as batches:
        return list(batches)


def joined(ranks: list[list[Batch]]) -> list[list[Any]]:
    """Images, labels and indices of the global batches, as lists."""
    steps = zip(*ranks, strict=True)
    return [[torch.cat([part[k] for part in parts]).tolist() for k in range(3)] for parts in steps]


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_stops_the_loader_by_name(
    folders: tuple[ImageFolder, ImageFolder], kind: str, threads: int
) -> None:
    folder = folders[0]
    BAD[kind](folder.path(4))
    with pytest.raises(BadImage) as caught:
        read(folder, None, threads=threads)
    assert caught.value.name == str(folder.path(4))
    assert str(caught.value).startswith(
        f"cannot {caught.value.verb} image {folder.path(4)}: {caught.value.reason}"
    )
    assert "--on-bad-image skip" in str(caught.value)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_bad_files_of_every_kind_are_replaced(folders: tuple[ImageFolder, ImageFolder], threads: int) -> None:
    folder = folders[0]
    whole = read(folder, None)
    chosen = [3, 8, 12, 17, 20, 22]
    for index, damage in zip(chosen, list(BAD.values())[threads::3], strict=False):
        damage(folder.path(index))
    damaged = chosen[: len(list(BAD)[threads::3])]
    bad = allow(folder)
    batches = read(folder, bad, threads=threads)
    seen = np.concatenate([batch.indices.numpy() for batch in whole])
    assert {sample.index for sample in bad.met} == set(damaged) & set(seen.tolist())
    for batch, before in zip(batches, whole, strict=True):
        was_bad = torch.isin(before.indices, torch.tensor(damaged))
        assert torch.equal(batch.indices[~was_bad], before.indices[~was_bad])
        assert torch.equal(batch.images[~was_bad], before.images[~was_bad])
        assert not torch.isin(batch.indices, torch.tensor(damaged)).any()
        assert batch.labels.tolist() == folder.labels[batch.indices.numpy()].tolist()


def test_replacements_are_augmented_like_other_images(folders: tuple[ImageFolder, ImageFolder]) -> None:
    folder = folders[0]
    before = read(folder, None)
    BAD["empty"](folder.path(7))
    batches = read(folder, allow(folder))
    checked = 0
    for step, (old, new) in enumerate(zip(before, batches, strict=True)):
        for slot in (old.indices == 7).nonzero().flatten().tolist():
            epoch, index = step // 2, int(new.indices[slot])
            assert index == replacement(5, epoch, 7, 0, len(folder))
            expected = TRANSFORM(decode_rgb(folder.read(index).data, path="x"), sample_rng(5, epoch, index))
            np.testing.assert_array_equal(new.images[slot].permute(1, 2, 0).numpy(), expected)
            checked += 1
    assert checked >= 1


@pytest.mark.parametrize("world_size", [2, 4])
def test_replacements_do_not_depend_on_ranks_or_threads(
    folders: tuple[ImageFolder, ImageFolder], world_size: int
) -> None:
    folder = folders[0]
    for index in range(0, 23, 3):
        BAD["truncated early"](folder.path(index))
    expected = joined([read(folder, allow(folder))])
    ranks = [
        read(folder, allow(folder), rank=rank, world_size=world_size, threads=2) for rank in range(world_size)
    ]
    assert joined(ranks) == expected
    assert joined([read(folder, allow(folder), start_step=3)]) == expected[3:]


@pytest.mark.parametrize("threads", [0, 2])
def test_too_many_bad_images_stop_the_run(folders: tuple[ImageFolder, ImageFolder], threads: int) -> None:
    folder = folders[0]
    for index in range(0, 23, 2):
        BAD["empty"](folder.path(index))
    with pytest.raises(UserError) as caught:
        read(folder, allow(folder, "10%"), threads=threads)
    message = str(caught.value)
    assert message.startswith(
        f"3 of the 23 images in {folder.root}/train are bad so far; --max-bad 10% allows 2. They are: "
    )
    assert message.count("the file is empty") == 3
    assert message.count(f"{folder.root}/train/") == 3


def test_evaluation_leaves_bad_images_out(folders: tuple[ImageFolder, ImageFolder]) -> None:
    val, transform = folders[1], EvalTransform(28, 24)
    whole = torch.cat([batch.images for batch in eval_loader(val, transform, batch_size=3)])
    for index in (0, 1, 2, 7):
        BAD["truncated late"](val.path(index))
    bad = allow(val)
    batches = list(eval_loader(val, transform, batch_size=3, bad_images=bad))
    assert [len(batch.labels) for batch in batches] == [0, 3, 2, 2]
    good = [3, 4, 5, 6, 8, 9, 10]
    assert torch.cat([batch.indices for batch in batches]).tolist() == good
    assert torch.cat([batch.labels for batch in batches]).tolist() == val.labels[good].tolist()
    assert torch.equal(torch.cat([batch.images for batch in batches]), whole[good])
    assert sorted(sample.index for sample in bad.met) == [0, 1, 2, 7]
    with pytest.raises(BadImage):
        list(eval_loader(val, transform, batch_size=3))


def test_a_sample_counts_once_and_is_recorded_once(folders: tuple[ImageFolder, ImageFolder]) -> None:
    recorded: list[BadSample] = []
    bad = BadImages(folders[0], parse_bad_limit("1"), record=recorded.append)
    for _ in range(5):
        bad.report(3, BadImage("x.jpg", "bad"))
    assert recorded == [BadSample("train", 3, "x.jpg", "bad")] == list(bad.met)
    with pytest.raises(UserError, match="2 of the 23 images"):
        bad.report(4, UnreadableImage("y.jpg", "gone"))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_shard_stops_whatever_is_allowed(
    folders: tuple[ImageFolder, ImageFolder], tmp_path: Path, threads: int
) -> None:
    """It is no bad image: the copy is damaged, and other records may be as well."""
    pack(folders[0].root, tmp_path / "packed", PackSettings("jpeg", 24, 90), workers=1)
    packed = open_train_val(tmp_path / "packed")[0]
    shard = next((tmp_path / "packed").glob("*train*.tar"))
    data = bytearray(shard.read_bytes())
    record = bytes(packed.read(5).data)
    data[data.index(record) + len(record) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match="data verify") as caught:
        read(packed, BadImages(packed, parse_bad_limit("90%")), threads=threads)
    assert not isinstance(caught.value, BadImage)


def test_replacements_are_spread_evenly() -> None:
    draws = [replacement(1, epoch, 5, attempt, 8) for epoch in range(400) for attempt in range(2)]
    counts = np.bincount(draws, minlength=8)
    assert len(counts) == 8
    assert ((counts - 100) ** 2 / 100).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_a_bad_image_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a b.jpg", "is gone")))
    assert isinstance(error, UnreadableImage)
    assert (error.name, error.reason) == ("a b.jpg", "is gone")
    assert str(error).startswith("cannot read image a b.jpg: is gone. ")


@pytest.mark.parametrize(
    ("text", "n", "allowed"),
    [
        ("0.1%", 1_281_167, 1281),
        ("0.1%", 999, 0),
        ("0.1%", 1000, 1),
        ("20", 50_000, 20),
        ("0", 10, 0),
        ("0%", 10, 0),
        (".5 %", 1000, 5),
        ("29%", 100, 29),
        ("99.9%", 10, 9),
        ("50", 10, 9),
    ],
)
def test_limits(text: str, n: int, allowed: int) -> None:
    assert parse_bad_limit(text).of(n) == allowed


@pytest.mark.parametrize("text", ["few", "", "-1", "1e3", "nan%", "100%", "0.1"])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(
        UsageError, match=rf"--max-bad '{text}' is no limit .* below 100%, such as 0\.1%, or a"
    ):
        parse_bad_limit(text)
