"""Batches are those of earlier versions, by recorded digests: a resumed run must see the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform

# Of version 0.1. Should they change, batches differ from those of older checkpoints: say so in the changelog.
SAMPLES, TRAIN, EVAL = "c033a96a77d32379", "103f586cdd88ff19", "0c74cd7095a51b0d"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of integers, in a format without an encoder whose versions could differ."""
    folder = tmp_path_factory.mktemp("recorded")
    for split, count in (("train", 30), ("val", 9)):
        for number in range(count):
            height, width = 20 + 11 * number % 70, 25 + 17 * number % 60
            y, x, channel = np.ogrid[:height, :width, :3]
            pixels = (x * x * (3 + number) + y * (7 + 5 * channel) + 40 * channel) % 256
            path = folder / split / "abc"[number % 3] / f"{number:02d}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + pixels.astype("u1").tobytes())
    return folder


def digest(batches: Iterable[Batch], *, images: bool) -> str:
    found = hashlib.sha256()
    for batch in batches:
        found.update(batch.labels.numpy().tobytes() + batch.indices.numpy().tobytes())
        if images:
            found.update(batch.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("reader", ["python", "native"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
def test_batches_are_as_recorded(root: Path, tmp_path: Path, packed: bool, reader: str) -> None:
    if packed:
        pack(root, tmp_path / "packed", PackSettings("raw", 0, None, 20_000), workers=2)
    train, val = open_train_val(tmp_path / "packed" if packed else root)
    native = choose_image_reader(reader).reader
    transform = TrainTransform(24, jitter=0.0)  # that of the jitter is OpenCV's
    for images, expected in ((False, SAMPLES), (True, TRAIN)):
        with train_loader(
            train, transform, seed=7, global_batch=8, stop_step=9, threads=2, native=native
        ) as batches:
            assert digest(batches, images=images) == expected
    with eval_loader(val, EvalTransform(28, 24), batch_size=4, threads=2, native=native) as batches:
        assert digest(batches, images=True) == EVAL
