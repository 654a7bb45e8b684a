"""Damage checkpoints as disks and people do, and count damage that is not detected.

    python -m drills.fuzz_checkpoint [--flips 2000] [--seed 0] [--arch x0_5] [--json]

The script writes two checkpoints of a network. It truncates the files of the newer one at every 4 KiB, flips
bits, appends bytes, zeroes blocks, removes files, and exchanges files with the older one. Loading must fail
after each change, and for each kind of damage the run must resume from the older checkpoint. Otherwise the
exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from shufflenet_fn.checkpoint.inventory import newest_good
from shufflenet_fn.checkpoint.read import Content, read_checkpoint
from shufflenet_fn.checkpoint.write import save_checkpoint
from shufflenet_fn.model.config import ShuffleNetConfig, get_config
from shufflenet_fn.model.variables import init
from shufflenet_fn.training.optim import sgd
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.state import create_train_state
from shufflenet_fn_backends.support.errors import UserError

BLOCK = 4096


@dataclass
class Count:
    """Counts for one kind of damage: attempts, detections, and other outcomes."""

    kind: str
    tried: int = 0
    detected: int = 0
    wrong: int = 0
    same: int = 0
    fell_back: int = 0

    @property
    def violations(self) -> int:
        return self.tried - self.detected + (1 if self.fell_back == 0 else 0)


def write_two(folder: Path, config: ShuffleNetConfig, seed: int) -> tuple[Path, Path]:
    """Write checkpoints of steps 1 and 2, which differ in every value. Return both paths, the older first."""
    generator = torch.Generator().manual_seed(seed)
    paths = []
    for step in (1, 2):
        variables = init(config, generator)
        state = create_train_state(variables, sgd(constant(0.1), momentum=0.9), ema=True)
        state = state._replace(step=torch.tensor(step))
        paths.append(save_checkpoint(folder, config, state, {"seed": seed}))
    return paths[0], paths[1]


def truncations(newer: Path) -> Iterator[str]:
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        # From the end, so that the file need not be rewritten each time.
        for length in sorted({*range(0, len(content), BLOCK), len(content) - 1}, reverse=True):
            with open(file, "r+b") as opened:
                opened.truncate(length)
            yield f"{file.name} cut to {length}"
        file.write_bytes(content)


def flips(newer: Path, count: int, rng: random.Random) -> Iterator[str]:
    """Flip single bits, uniformly over all bytes of all files."""
    files = sorted(newer.iterdir())
    sizes = [file.stat().st_size for file in files]
    for _ in range(count):
        (file,) = rng.choices(files, sizes)
        position, bit = rng.randrange(file.stat().st_size), rng.randrange(8)
        with open(file, "r+b") as opened:
            opened.seek(position)
            byte = opened.read(1)[0]
            opened.seek(position)
            opened.write(bytes([byte ^ 1 << bit]))
            opened.flush()
            yield f"bit {bit} of byte {position} of {file.name}"
            opened.seek(position)
            opened.write(bytes([byte]))


def appended(newer: Path, rng: random.Random) -> Iterator[str]:
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        for extra in (b"\0", b"\n", bytes(BLOCK), rng.randbytes(BLOCK), content):
            file.write_bytes(content + extra)
            yield f"{len(extra)} bytes appended to {file.name}"
        file.write_bytes(content)


def zeroed(newer: Path, rng: random.Random) -> Iterator[str]:
    """Zero blocks, as if they had never been written. Blocks that are zero already are skipped."""
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        starts = list(range(0, len(content), BLOCK))
        for start in rng.sample(starts, min(len(starts), 32)):
            block = content[start : start + BLOCK]
            if any(block):
                file.write_bytes(content[:start] + bytes(len(block)) + content[start + BLOCK :])
                yield f"{file.name} zero from {start}"
        file.write_bytes(content)


def removed(newer: Path) -> Iterator[str]:
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        file.unlink()
        yield f"{file.name} removed"
        file.mkdir()
        yield f"{file.name} a folder"
        file.rmdir()
        file.write_bytes(content)


def exchanged(newer: Path, older: Path) -> Iterator[str]:
    """Replace files of the newer checkpoint by the older ones: each one, all but one, and all."""
    files = sorted(file.name for file in newer.iterdir())
    ours = {name: (newer / name).read_bytes() for name in files}
    theirs = {name: (older / name).read_bytes() for name in files}
    for chosen in (*[{name} for name in files], *[set(files) - {name} for name in files], set(files)):
        for name in files:
            (newer / name).write_bytes(theirs[name] if name in chosen else ours[name])
        yield f"{', '.join(sorted(chosen))} of the other checkpoint"
    for name in files:
        (newer / name).write_bytes(ours[name])


def tried(kind: str, damages: Iterator[str], newer: Path, saved: Content) -> Count:
    """Load after each of ``damages`` and count the outcomes."""
    count = Count(kind)
    for what in damages:
        count.tried += 1
        try:
            loaded = read_checkpoint(newer)
        except UserError:
            count.detected += 1
        else:
            same = equal(loaded, saved)
            count.same += same
            count.wrong += not same
            print(f"not detected: {what}", file=sys.stderr)
        if count.tried == 1:
            found, _ = newest_good(newer.parent)
            count.fell_back += found is None or found.path != newer
    assert equal(read_checkpoint(newer), saved), f"{kind} was not undone"
    return count


def equal(first: Content, second: Content) -> bool:
    return first.files.keys() == second.files.keys() and all(
        first.files[file].keys() == tensors.keys()
        and all(torch.equal(first.files[file][name], tensors[name]) for name in tensors)
        for file, tensors in second.files.items()
    )


def fuzz(config: ShuffleNetConfig, number_of_flips: int, seed: int) -> list[Count]:
    """Apply every kind of damage to fresh checkpoints in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-checkpoint-"))
    try:
        older, newer = write_two(folder, config, seed)
        saved, rng = read_checkpoint(newer), random.Random(seed)
        return [
            tried(kind, damages, newer, saved)
            for kind, damages in (
                ("truncated at every 4 KiB", truncations(newer)),
                ("a bit flipped", flips(newer, number_of_flips, rng)),
                ("bytes appended", appended(newer, rng)),
                ("a block zeroed", zeroed(newer, rng)),
                ("a file removed", removed(newer)),
                ("files exchanged", exchanged(newer, older)),
            )
        ]
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arch", default="x0_5")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    counts = fuzz(get_config(arguments.arch), arguments.flips, arguments.seed)
    result: dict[str, Any] = {
        "arch": arguments.arch,
        "seed": arguments.seed,
        "kinds": [asdict(count) for count in counts],
        "tried": sum(count.tried for count in counts),
        "wrong_loads": sum(count.wrong for count in counts),
        "violations": sum(count.violations for count in counts),
        "seconds": time.perf_counter() - start,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        table = Table(box=None)
        for heading in ("damage", "tried", "detected", "wrong loads", "older one taken"):
            table.add_column(heading, justify="left" if heading == "damage" else "right")
        for count in counts:
            fell_back = "yes" if count.fell_back else "no"
            table.add_row(count.kind, str(count.tried), str(count.detected), str(count.wrong), fell_back)
        Console().print(table)
        print(f"{result['tried']} damages, {result['violations']} violations")
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
