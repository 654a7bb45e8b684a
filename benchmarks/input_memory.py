"""Memory and start-up time of our loader: over epochs, and with an index of a million images.

    python -m benchmarks.input_memory --data DIR [--epochs 20]

Each measurement runs in a fresh process. The tree of a million entries has a thousand class folders that are
links to one folder of a thousand images, so it takes no disk space but is listed and opened like any other.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from shufflenet_fn.bench.data import make_tree
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn.run.directory import environment
from shufflenet_fn_backends.runtimes.cpu import usable_cores

T = TypeVar("T")

FLAT = 0.02
"""Memory is flat if it stays within this share of its median, in all epochs but the first."""


def resident() -> dict[str, int]:
    """Return RSS and PSS of this process in bytes."""
    text = Path("/proc/self/smaps_rollup").read_text()
    fields = dict(line.split()[:2] for line in text.splitlines()[1:])
    return {name: 1024 * int(fields[f"{name}:"]) for name in ("Rss", "Pss")}


def memory_over_epochs(settings: TrainSettings, images: int, epochs: int) -> list[dict[str, int]]:
    """Return the memory after each epoch of ``images`` images."""
    import torch

    from shufflenet_fn.bench.loading import our_batches
    from shufflenet_fn.run.build import build_prepare

    prepare = build_prepare(torch.channels_last, torch.device("cpu"), reuse=True)
    steps, found = images // settings.batch_size, []
    with our_batches(settings, threads=usable_cores()) as batches:
        for _ in range(epochs):
            for _ in range(steps):
                prepare(next(batches).images)
            found.append(resident())
    return found


def first_batch(settings: TrainSettings, started: float) -> dict[str, float]:
    """Measure the seconds to the first batch: ``total_s`` since ``started``, the others after all imports."""
    from shufflenet_fn.bench.loading import our_batches
    from shufflenet_fn.data.opening import open_split

    before, begun = resident(), time.perf_counter()
    samples = open_split(settings.data or "", "train")
    opened = time.perf_counter()
    after = resident()
    with our_batches(settings, threads=usable_cores()) as batches:
        next(batches)
        done = time.perf_counter()
    return {
        "entries": len(samples),
        "open_s": opened - begun,
        "first_batch_s": done - opened,
        "total_s": time.time() - started,
        "index_rss_bytes": after["Rss"] - before["Rss"],
        "index_pss_bytes": after["Pss"] - before["Pss"],
    }


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """Call ``function`` in a new process and return its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def million(tree: Path, folder: Path, entries: int) -> Path:
    """Create a tree of 1,000 class folders, all links to one folder of links. Return its path."""
    pool = folder / "pool"
    pool.mkdir(parents=True)
    files = sorted(tree.glob("train/*/*"))
    for number in range(entries // 1000):
        source = files[number % len(files)].resolve()
        try:
            os.link(source, pool / f"{number:06d}{source.suffix}")
        except OSError:  # another file system
            os.symlink(source, pool / f"{number:06d}{source.suffix}")
    for split, classes in (("train", 1000), ("val", 1)):
        (folder / split).mkdir()
        for number in range(classes):
            os.symlink(pool, folder / split / f"class{number:04d}")
    return folder


def spread(found: list[dict[str, int]], name: str) -> float:
    """Return the largest relative deviation from the median, without the first epoch."""
    values = [one[name] for one in found[1:]]
    median = statistics.median(values)
    return max(abs(value - median) for value in values) / median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="image folder")
    parser.add_argument("--images", type=int, default=2000, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the large index")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--scratch", help="folder for the trees; the system's temporary one if not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="input-") as place:
        tree = make_tree(given.data, Path(place, "files"), given.images)
        large = million(tree, Path(place, "million"), given.entries)
        packed = Path(place, "packed")
        tell("packing")
        with contextlib.redirect_stdout(sys.stderr):
            pack(tree, packed, PackSettings(), workers=usable_cores())

        def settings(root: Path) -> TrainSettings:
            return TrainSettings(data=str(root), image_size=given.image_size, batch_size=given.batch_size)

        memory, start = {}, {}
        for name, root in (("files", tree), ("packed JPEG", packed), ("million entries", large)):
            tell(f"{name}: to the first batch")
            start[name] = alone(first_batch, settings(root), time.time())
            tell(f"{name}: memory over {given.epochs} epochs of {given.images} images")
            found = alone(memory_over_epochs, settings(root), given.images, given.epochs)
            memory[name] = {
                "epochs": found,
                **{f"{kind}_spread": spread(found, kind) for kind in ("Rss", "Pss")},
                "flat": spread(found, "Pss") <= FLAT,
            }
        result = {
            "command": " ".join(["python", *sys.argv]),
            "environment": environment(),
            "images": given.images,
            "batch_size": given.batch_size,
            "image_size": given.image_size,
            "start": start,
            "memory": memory,
        }
    print(json.dumps(result))
    for line in table(result):
        tell(line)


def table(result: dict[str, Any]) -> list[str]:
    """Return the result as Markdown."""
    lines = [
        "| data | entries | opened, s | first batch, s | with imports, s "
        "| index, PSS MB | PSS after the last epoch, MB | ± over epochs, % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, start in result["start"].items():
        memory = result["memory"][name]
        cells = (
            name,
            f"{start['entries']:,}",
            f"{start['open_s']:.3f}",
            f"{start['first_batch_s']:.2f}",
            f"{start['total_s']:.2f}",
            f"{start['index_pss_bytes'] / 1e6:.1f}",
            f"{memory['epochs'][-1]['Pss'] / 1e6:.0f}",
            f"{100 * memory['Pss_spread']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
