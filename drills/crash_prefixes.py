"""Simulate a power cut after every operation of a save, and check that the next start finds a checkpoint.

    python -m drills.crash_prefixes [--states 200] [--seed 0] [--json]

Killing a process does not test fsync, because the kernel keeps what the process has written. So the script
records the operations of some saves and replays every prefix of them, with each state that the disk may then
have (at most ``--states`` for each prefix). The next start must find the newest save that had returned, or a
newer complete one, and never wrong bytes. Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from drills.crashes import CrashModel, Operation, Recorder, materialise
from shufflenet_fn.checkpoint.format import FILES, MANIFEST, STATE, WEIGHTS
from shufflenet_fn.checkpoint.inventory import (
    Retention,
    checkpoints,
    newest_good,
    point_to,
    pointed_to,
    prune,
    tidy,
)
from shufflenet_fn.checkpoint.read import verify
from shufflenet_fn.checkpoint.write import write_checkpoint
from shufflenet_fn.io import Disk

Contents = dict[str, bytes]


class Saved(NamedTuple):
    """A save that returned after ``operations`` operations."""

    operations: int
    step: int
    version: int


class Recording(NamedTuple):
    """Saves in a folder: all operations, when each save returned, and the content of each version."""

    root: Path
    operations: list[Operation]
    saves: list[Saved]
    contents: dict[tuple[int, int], Contents]


def contents_of(checkpoint: Path) -> Contents:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def record(root: Path, steps: list[int], keep: int) -> Recording:
    """Save ``steps`` one after the other, as a run does. A step may occur twice (after a resume)."""
    root.mkdir()
    recorder = Recorder()
    recording = Recording(root, recorder.operations, [], {})
    for version, step in enumerate(steps):
        path = save_small(root / "checkpoints", step, version, recorder)
        point_to(root / "checkpoints", "latest", path, disk=recorder)
        recording.contents[step, version] = contents_of(path)
        prune(root / "checkpoints", Retention(keep), disk=recorder)
        recording.saves.append(Saved(len(recorder.operations), step, version))
    return recording


def crashes(recording: Recording, rng: random.Random, limit: int, place: Path) -> Iterator[tuple[int, Path]]:
    """Yield, for every prefix, the states that a crash may leave (at most ``limit``), as folders."""
    model = CrashModel(recording.root)
    for done in range(len(recording.operations) + 1):
        for found in model.outcomes(rng, limit):
            materialise(found, place)
            yield done, place
            shutil.rmtree(place)
        if done < len(recording.operations):
            model.apply(recording.operations[done])


def check(recording: Recording, done: int, place: Path) -> None:
    """Assert that the next start finds the newest save that had returned, or a newer complete one."""
    folder = place / "checkpoints"
    due = [save for save in recording.saves if save.operations <= done]
    found, _ = newest_good(folder)
    if found is None:
        assert not due, f"nothing left after {done} operations"
        return
    step, version = found.manifest["step"], found.manifest["version"]
    assert contents_of(found.path) == recording.contents[step, version], "wrong bytes"
    if due:
        assert step >= due[-1].step and version >= due[-1].version
    for path in checkpoints(folder):
        assert set(contents_of(path)) <= {*FILES, MANIFEST}
    latest = pointed_to(folder, "latest")
    if due:
        assert latest is not None
    if latest is not None:
        pointed = verify(latest)
        assert contents_of(latest) == recording.contents[pointed["step"], pointed["version"]]
    # The next start tidies the folder, which must not lose the checkpoint.
    tidy(folder)
    again, _ = newest_good(folder)
    assert again is not None
    assert (again.manifest["step"], again.manifest["version"]) == (step, version)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


STORIES = {
    "one after the other": ([1, 2, 3], 9),
    "old ones removed": ([1, 2, 3, 4], 1),
    "the only one replaced": ([5, 5, 5], 1),
    "the newest of two replaced": ([4, 5, 5], 2),
}


def save_small(folder: Path, step: int, version: int, disk: Disk) -> Path:
    """Save a checkpoint of a few numbers, which differ between all versions."""
    files = {WEIGHTS: {"value": torch.full((3,), float(version))}, STATE: {"step": torch.tensor(step)}}
    return write_checkpoint(folder, step, files, {"version": version}, disk=disk)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=200, help="states tried for each prefix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="crash-prefixes-") as name:
        for title, (steps, keep) in STORIES.items():
            recording = record(Path(name) / title, steps, keep)
            row: dict[str, Any] = {"story": title, "operations": len(recording.operations)}
            row |= {"states": 0, "wrong": 0}
            rng = random.Random(arguments.seed)
            for done, place in crashes(recording, rng, arguments.states, Path(name) / "crashed"):
                row["states"] += 1
                try:
                    check(recording, done, place)
                except AssertionError as error:
                    row["wrong"] += 1
                    print(f"{title}, after {done} operations: {error}", file=sys.stderr)
            rows.append(row)
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "stories": rows}))
    else:
        table = Table(box=None)
        for heading in rows[0]:
            table.add_column(heading, justify="left" if heading == "story" else "right")
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console().print(table)
    return 1 if any(row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
