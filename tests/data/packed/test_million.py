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

MILLION = 1_000_000
SHARDS = 200

OPEN = """
import resource, sys, time
import numpy as np
from pathlib import Path
from shufflenet_fn.data.opening import open_train_val

def own_kib():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0])

before, start = own_kib(), time.process_time()
train, val = open_train_val(sys.argv[1])
opened = time.process_time() - start
rows = np.random.default_rng(0).integers(0, len(train), 256)
labels = [int(train.labels[rows].sum()) for _ in range(100)]
names = [train.name(int(row)) for row in rows]
print(len(train), own_kib() - before, opened, len(set(labels)), names[0])
"""


def write_index_of(folder: Path, images: int) -> None:
    """A packed set of that many images as far as opening looks: shards of the right size, empty."""
    splits = {}
    for split in ("train", "val"):
        names = np.frombuffer(b"class_0000/image_000000.jpg" * images, dtype=np.uint8)
        entries = Entries(
            labels=np.arange(images, dtype="<i8") * 1000 // images,
            name_ends=np.arange(1, images + 1, dtype="<u8") * 27,
            offsets=np.zeros(images, dtype="<u8"),
            sizes=np.zeros(images, dtype="<u8"),
            checksums=np.zeros(images, dtype="<u4"),
            heights=np.full(images, 256, dtype="<u4"),
            widths=np.full(images, 341, dtype="<u4"),
            names=names,
        )
        data = entries_bytes(entries)
        (folder / f"{split}.entries").write_bytes(data)
        shards = [
            FileFacts(f"{split}-{number:05d}.tar", 1 << 16, images // SHARDS, "0" * 64)
            for number in range(SHARDS)
        ]
        for shard in shards:
            with open(folder / shard.name, "wb") as file:
                file.truncate(shard.bytes)  # sparse
        splits[split] = SplitIndex(
            FileFacts(f"{split}.entries", len(data), images, "0" * 64), tuple(shards), 0, ()
        )
    classes = tuple(f"class_{number:04d}" for number in range(1000))
    index = PackedIndex(PackSettings(), classes, splits, {"train": "", "val": ""}, {})
    write_sealed(folder / INDEX_NAME, index_fields(index))


def measured(folder: Path) -> tuple[int, float]:
    """Growth of the process's own memory in KiB, and seconds of CPU time to open."""
    done = subprocess.run([sys.executable, "-c", OPEN, folder], capture_output=True, text=True, check=True)
    _, grown, seconds, sums, name = done.stdout.split(maxsplit=4)
    assert sums == "1"
    assert "class_0000/image_000000.jpg" in name
    return int(grown), float(seconds)


@pytest.mark.parametrize("images", [SHARDS, MILLION])
def test_opening_costs_the_same_for_a_million_images(tmp_path: Path, images: int) -> None:
    write_index_of(tmp_path, images)
    grown_kib, seconds = measured(tmp_path)
    # The labels of a million alone would be 7,800 KiB.
    assert grown_kib < 3000
    assert seconds < 0.5  # that it does not go through the images; not a measurement
