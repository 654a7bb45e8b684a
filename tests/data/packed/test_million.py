"""A million images cost no more memory than a hundred: their entries stay in the page cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data.packed.entries import Entries, entries_bytes
from shufflenet_fn.data.packed.index import (
    INDEX_NAME,
    FileFacts,
    PackedIndex,
    PackSettings,
    SplitIndex,
    index_fields,
    write_sealed,
)

SHARDS = 200

OPEN = """
import sys
import numpy as np
from shufflenet_fn.data.opening import open_train_val

def own_kib():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0])

before = own_kib()
train, val = open_train_val(sys.argv[1])
rows = np.random.default_rng(0).integers(0, len(train), 256)
labels = [int(train.labels[rows].sum()) for _ in range(100)]
names = [train.name(int(row)) for row in rows]
print(own_kib() - before, names[0])
"""


def write_index_of(folder: Path, images: int) -> None:
    """A packed set of that many images as far as opening looks: shards of the right size, empty."""
    entries = Entries(
        labels=np.arange(images, dtype="<i8") * 1000 // images,
        name_ends=np.arange(1, images + 1, dtype="<u8") * 27,
        offsets=np.zeros(images, dtype="<u8"),
        sizes=np.zeros(images, dtype="<u8"),
        checksums=np.zeros(images, dtype="<u4"),
        heights=np.full(images, 256, dtype="<u4"),
        widths=np.full(images, 341, dtype="<u4"),
        names=np.frombuffer(b"class_0000/image_000000.jpg" * images, dtype=np.uint8),
    )
    data = entries_bytes(entries)
    splits = {}
    for split in ("train", "val"):
        (folder / f"{split}.entries").write_bytes(data)
        names = [f"{split}-{number:05d}.tar" for number in range(SHARDS)]
        for name in names:
            with open(folder / name, "wb") as file:
                file.truncate(1 << 16)  # sparse
        shards = tuple(FileFacts(name, 1 << 16, images // SHARDS, "0" * 64) for name in names)
        own = FileFacts(f"{split}.entries", len(data), images, "0" * 64)
        splits[split] = SplitIndex(own, shards, 0, ())
    classes = tuple(f"class_{number:04d}" for number in range(1000))
    index = PackedIndex(PackSettings(), classes, splits, {"train": "", "val": ""}, {})
    write_sealed(folder / INDEX_NAME, index_fields(index))


@pytest.mark.parametrize("images", [SHARDS, 1_000_000])
def test_opening_costs_the_same_for_a_million_images(tmp_path: Path, images: int) -> None:
    write_index_of(tmp_path, images)
    command = [sys.executable, "-c", OPEN, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown_kib, name = done.stdout.split(maxsplit=1)
    assert "class_0000/image_000000.jpg" in name
    assert int(grown_kib) < 3000  # the labels of a million alone would be 7,800
