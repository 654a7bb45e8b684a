"""Stages for the loader and for the disk of the runs."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from shufflenet_fn.doctor.finding import FAILED, OK, WARNING, Finding
from shufflenet_fn.io import flush

_SCARCE = 2 * 2**30
"""Free bytes below which a disk counts as nearly full: about a hundred checkpoints of x2_0."""

_BLOCK, _BLOCKS = 2**20, 64
_BATCH, _BATCHES = 32, 4


def loader(facts: dict[str, Any]) -> Finding:
    """Read a few batches of generated JPEGs through the loader that training uses."""
    from shufflenet_fn.data.demo import write_demo
    from shufflenet_fn.data.loader import train_loader
    from shufflenet_fn.data.native.reader import choose_image_reader
    from shufflenet_fn.data.opening import open_train_val
    from shufflenet_fn.data.transforms import TrainTransform
    from shufflenet_fn_backends.runtimes.cpu import usable_cores

    threads, chosen = usable_cores(), choose_image_reader("auto")
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-") as folder:
        train, _ = open_train_val(write_demo(Path(folder) / "demo", train_per_class=16))
        start = time.perf_counter()
        with train_loader(
            train,
            TrainTransform(224, scale=(0.08, 1.0), jitter=0.2, flip=0.5),
            seed=0,
            global_batch=_BATCH,
            stop_step=_BATCHES,
            threads=threads,
            native=chosen.reader,
        ) as batches:
            shapes = [tuple(batch.images.shape) for batch in batches]
        seconds = time.perf_counter() - start
    expected = [(_BATCH, 3, 224, 224)] * _BATCHES
    if shapes != expected:
        return Finding(FAILED, f"the loader gave batches of {shapes}", "Report this.")
    rate = _BATCH * _BATCHES / seconds
    text = (
        f"{_BATCH * _BATCHES} JPEGs decoded and augmented, {rate:.0f} images/s with {threads} threads; "
        f"{chosen.reason}"
    )
    return Finding(OK, text, details={"images_per_s": rate, "threads": threads})


def disk(facts: dict[str, Any]) -> Finding:
    """Check that the folder of runs is writable, can be flushed to disk, and has free space."""
    folder = Path(facts["output"]).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding(FAILED, f"{existing} is a file", "Name a folder with --output.")
    free = shutil.disk_usage(existing).free
    try:
        speed = _write_speed(existing)
    except OSError as error:
        return Finding(
            FAILED,
            f"cannot write in {existing}: {error.strerror or error}",
            "Make it writable or free some space, or name another folder with --output.",
            {"free_bytes": free},
        )
    text = f"{existing}: {free / 2**30:.1f} GiB free, {speed / 1e6:.0f} MB/s flushed to disk"
    details = {"folder": str(existing), "free_bytes": free, "bytes_per_s": speed}
    if free < _SCARCE:
        return Finding(WARNING, text, "Free some space: a run that cannot write stops.", details)
    return Finding(OK, text, details=details)


def _write_speed(folder: Path) -> float:
    """Return bytes per second for a new file: write, flush, rename, flush of its folder."""
    with tempfile.TemporaryDirectory(prefix=".shufflenet-fn-doctor-", dir=folder) as scratch:
        path = Path(scratch) / "block"
        block = os.urandom(_BLOCK)
        start = time.perf_counter()
        with open(path, "wb") as file:
            for _ in range(_BLOCKS):
                file.write(block)
        flush(path)
        path.rename(path.with_name("renamed"))
        flush(path.parent)
        return _BLOCK * _BLOCKS / (time.perf_counter() - start)
