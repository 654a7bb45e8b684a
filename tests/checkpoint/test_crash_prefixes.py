"""A loss of power at any moment of a write leaves a checkpoint to go on from, and never a wrong one.

Killing a process does not test fsync: what it had written stays in memory. So the sequence of operations is
recorded, and every prefix of it replayed with everything that a disk may have lost or kept by then.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shufflenet_fn.checkpoint.crashes import CrashModel, Operation, Recorder, materialise
from shufflenet_fn.checkpoint.disk import Disk, RealDisk
from shufflenet_fn.checkpoint.format import FILES, MANIFEST
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
from tests.checkpoint.support import small

Contents = dict[str, bytes]


class Saved(NamedTuple):
    """A save that had returned when so many operations were done."""

    operations: int
    step: int
    version: int


class Story(NamedTuple):
    """Saves in a folder: the operations, when each was done, and what each version held."""

    root: Path
    operations: list[Operation]
    saves: list[Saved]
    contents: dict[tuple[int, int], Contents]


def contents_of(checkpoint: Path) -> Contents:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def tell(root: Path, steps: list[int], keep: int) -> Story:
    """Save ``steps`` one after the other, as a run does; a step may come twice (after a resume)."""
    root.mkdir()
    recorder = Recorder(RealDisk())
    story = Story(root, recorder.operations, [], {})
    for version, step in enumerate(steps):
        path = small(root / "checkpoints", step, disk=recorder, version=version)
        point_to(root / "checkpoints", "latest", path, disk=recorder)
        story.contents[step, version] = contents_of(path)
        prune(root / "checkpoints", Retention(keep), disk=recorder)
        story.saves.append(Saved(len(recorder.operations), step, version))
    return story


def crashes(
    story: Story, rng: random.Random, limit: int, place: Path
) -> Iterator[tuple[int, Path]]:
    """Every prefix, with every state (at most ``limit`` of each) that a crash may leave, as folders."""
    model = CrashModel(story.root)
    for done in range(len(story.operations) + 1):
        for found in model.outcomes(rng, limit):
            materialise(found, place)
            yield done, place
            shutil.rmtree(place)
        if done < len(story.operations):
            model.apply(story.operations[done])


def check(story: Story, done: int, place: Path) -> None:
    """What the next start finds is the newest save that had returned, or a newer whole one."""
    folder = place / "checkpoints"
    due = [save for save in story.saves if save.operations <= done]
    found, manifest, _ = newest_good(folder)
    if found is None:
        assert not due, f"nothing left after {done} operations"
        return
    step, version = manifest["step"], manifest["version"]
    assert contents_of(found) == story.contents[step, version], "wrong bytes"
    if due:
        assert step >= due[-1].step and version >= due[-1].version
    for path in checkpoints(folder):
        assert set(contents_of(path)) <= {*FILES, MANIFEST}
    latest = pointed_to(folder, "latest")
    if due:
        assert latest is not None
    if latest is not None:
        pointed = verify(latest)
        assert contents_of(latest) == story.contents[pointed["step"], pointed["version"]]
    # The next start puts things in order and loses nothing by it.
    tidy(folder)
    again, after, _ = newest_good(folder)
    assert again is not None and (after["step"], after["version"]) == (step, version)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


STORIES = {
    "one after the other": ([1, 2, 3], 9),
    "old ones removed": ([1, 2, 3, 4], 1),
    "the only one replaced": ([5, 5, 5], 1),
    "the newest of two replaced": ([4, 5, 5], 2),
}


@pytest.mark.parametrize("name", STORIES)
def test_every_prefix_leaves_a_checkpoint_to_go_on_from(name: str, tmp_path: Path) -> None:
    steps, keep = STORIES[name]
    story = tell(tmp_path / "run", steps, keep)
    count = 0
    for done, place in crashes(story, random.Random(0), 24, tmp_path / "crashed"):
        check(story, done, place)
        count += 1
    assert count > 2 * len(story.operations) > 50


@pytest.mark.parametrize("forgotten", ["files", "checkpoint", "parent"])
def test_the_model_catches_a_write_that_does_not_wait(forgotten: str, tmp_path: Path) -> None:
    """Without any one of the flushes, there is a prefix after which a finished save is lost."""
    story = tell(tmp_path / "run", [1, 2, 3], 1)

    def is_forgotten(operation: Operation) -> bool:
        name = operation.path.name
        kind = (
            "parent"
            if name == "checkpoints"
            else "checkpoint"
            if name.endswith(".partial") and name.startswith(".step")
            else "files"
        )
        return operation.kind == "flush" and kind == forgotten

    marked = [None if is_forgotten(operation) else operation for operation in story.operations]
    saves = [
        save._replace(operations=sum(o is not None for o in marked[: save.operations]))
        for save in story.saves
    ]
    careless = story._replace(operations=[o for o in marked if o is not None], saves=saves)
    assert len(careless.operations) < len(story.operations)
    with pytest.raises(AssertionError):
        for done, place in crashes(careless, random.Random(0), 64, tmp_path / "crashed"):
            check(careless, done, place)


def test_operations_are_done_and_written_down(tmp_path: Path) -> None:
    disk: Disk = Recorder(RealDisk())
    folder = small(tmp_path / "checkpoints", 3, disk=disk)
    assert isinstance(disk, Recorder) and (folder / MANIFEST).exists()
    kinds = [operation.kind for operation in disk.operations]
    assert kinds == [
        *("make_folder", "flush", "make_folder"),
        *("write", "flush") * 3,
        *("flush", "rename", "flush"),
    ]
