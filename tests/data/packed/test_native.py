"""The native reader on packed data."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.native.reader import NativeReader, functions
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.read import PackedSplit, open_packed
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import UserError
from tests.data.conftest import WriteTree, draw_picture, encoded

TRANSFORM = TrainTransform(24, jitter=0.0)


@pytest.fixture
def reader() -> NativeReader:
    return NativeReader(functions())


@pytest.fixture(params=["jpeg", "raw"])
def packed(tree: WriteTree, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A set of small and large images in several shards."""
    from PIL import Image

    sizes = [(30, 40), (200, 150), (150, 300), (260, 260), (64, 64), (333, 260)]
    source = tree(
        {
            f"{split}/{name}/{number}.jpg": encoded(
                Image.fromarray(draw_picture(*size, number)), "JPEG", quality=98
            )
            for split in ("train", "val")
            for name in ("a", "b")
            for number, size in enumerate(sizes)
        }
    )
    quality = 98 if request.param == "jpeg" else None
    pack(source, tmp_path / "packed", PackSettings(request.param, 256, quality, 150_000), workers=1)
    return tmp_path / "packed"


def read(reader: NativeReader, split: PackedSplit) -> tuple[Any, Any]:
    """All samples and which of them were done."""
    indices = np.arange(len(split))
    out = np.zeros((len(split), 24, 24, 3), dtype=np.uint8)
    with split.located(indices) as stored:
        done = reader.train(stored, TRANSFORM, seed=1, epoch=2, indices=indices, repeats=indices * 0, out=out)
    return out, done


def test_every_record_is_read_and_batches_are_the_same(reader: NativeReader, packed: Path) -> None:
    split = open_packed(packed, "train")
    assert len(split.shard_paths()) > 1
    assert read(reader, split)[1].all()

    def batches(native: NativeReader | None) -> list[torch.Tensor]:
        transform = TrainTransform(24, jitter=0.3)
        with train_loader(split, transform, seed=1, global_batch=4, stop_step=9, native=native) as loader:
            images = [batch.images.clone() for batch in loader]
        with eval_loader(split, EvalTransform(32, 24), batch_size=5, native=native) as loader:
            return images + [batch.images.clone() for batch in loader]

    assert all(map(torch.equal, batches(reader), batches(None)))


def test_damage_is_left_to_others_and_named(reader: NativeReader, packed: Path) -> None:
    split = open_packed(packed, "train")
    whole, _ = read(reader, split)
    for index in range(len(split)):
        path = Path(split.name(index).split(" record ")[0])
        content = path.read_bytes()
        middle = int(split.entries.offsets[index] + split.entries.sizes[index] // 2)
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        found, done = read(reader, split)
        assert np.flatnonzero(~done).tolist() == [index]
        np.testing.assert_array_equal(np.delete(found, index, 0), np.delete(whole, index, 0))
        path.write_bytes(content)
    path.write_bytes(content[:middle])
    with pytest.raises(UserError, match="beyond the end of its shard"):
        list(train_loader(split, TRANSFORM, seed=1, global_batch=12, stop_step=2, native=reader))


def test_wrong_positions_are_not_read(
    reader: NativeReader, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_packed(packed, "train")
    entries = split.entries
    for column, value in product(("offsets", "sizes"), (0, 2**63 + 5, 2**64 - 1, 2**40)):
        columns = getattr(entries, column).copy()
        columns[3] = value
        monkeypatch.setattr(split, "entries", entries._replace(**{column: columns}))
        _, done = read(reader, split)
        assert np.flatnonzero(~done).tolist() == [3], (column, value)
