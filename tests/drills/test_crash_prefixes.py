"""A loss of power at any moment of a write leaves a checkpoint to go on from, and never a wrong one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drills.crash_prefixes import STORIES, check, crashes, record
from drills.crashes import Operation, Recorder
from shufflenet_fn.checkpoint.format import MANIFEST
from tests.checkpoint.support import small


@pytest.mark.parametrize("name", STORIES)
def test_every_prefix_leaves_usable_checkpoint(name: str, tmp_path: Path) -> None:
    steps, keep = STORIES[name]
    recording = record(tmp_path / "run", steps, keep)
    count = 0
    for done, place in crashes(recording, random.Random(0), 24, tmp_path / "crashed"):
        check(recording, done, place)
        count += 1
    assert count > 2 * len(recording.operations) > 50


@pytest.mark.parametrize("forgotten", ["files", "checkpoint", "parent"])
def test_model_detects_missing_flush(forgotten: str, tmp_path: Path) -> None:
    """Without any one of the flushes, there is a prefix after which a finished save is lost."""
    recording = record(tmp_path / "run", [1, 2, 3], 1)

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

    marked = [None if is_forgotten(operation) else operation for operation in recording.operations]
    saves = [
        save._replace(operations=sum(o is not None for o in marked[: save.operations]))
        for save in recording.saves
    ]
    careless = recording._replace(operations=[o for o in marked if o is not None], saves=saves)
    assert len(careless.operations) < len(recording.operations)
    with pytest.raises(AssertionError):
        for done, place in crashes(careless, random.Random(0), 64, tmp_path / "crashed"):
            check(careless, done, place)


def test_operations_are_done_and_written_down(tmp_path: Path) -> None:
    disk = Recorder()
    folder = small(tmp_path / "checkpoints", 3, disk=disk)
    assert (folder / MANIFEST).exists()
    kinds = [operation.kind for operation in disk.operations]
    assert kinds == [
        *("make_folder", "flush", "make_folder"),
        *("write", "flush") * 3,
        *("flush", "rename", "flush"),
    ]
