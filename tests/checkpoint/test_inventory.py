"""What lies in a checkpoints folder: order, pointers, what stays and what goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shufflenet_fn.checkpoint.describe import list_checkpoints
from shufflenet_fn.checkpoint.format import MANIFEST, STATE, WEIGHTS, step_of
from shufflenet_fn.checkpoint.inventory import (
    Retention,
    checkpoints,
    checkpoints_of,
    newest_good,
    point_to,
    pointed_to,
    prune,
    tidy,
)
from shufflenet_fn.checkpoint.read import Content
from shufflenet_fn.errors import UserError
from shufflenet_fn.io import Disk
from tests.checkpoint.support import copy_of, flip, names, small
from tests.unprivileged import unprivileged


def steps(folder: Path) -> set[int | None]:
    return {step_of(path.name) for path in checkpoints(folder)}


def test_checkpoints_are_listed_newest_first(folder: Path) -> None:
    assert checkpoints(folder) == []
    for step in (30, 4, 200, 99_999_999, 100_000_000):
        small(folder, step)
    (folder / "step-7").mkdir()
    (folder / "superseded-step-00000500").mkdir()
    assert [step_of(path.name) for path in checkpoints(folder)] == [*[100_000_000, 99_999_999, 200, 30, 4]]


@pytest.mark.parametrize(
    ("best", "keep", "left"),
    [(1, 2, {1, 4, 5}), (5, 2, {4, 5}), (None, 1, {5}), (2, 0, {2}), (3, 9, {1, 2, 3, 4, 5})],
)
def test_pruning_keeps_the_newest_and_the_best(
    folder: Path, best: int | None, keep: int, left: set[int]
) -> None:
    for step in (1, 2, 3, 4, 5):
        small(folder, step)
    if best:
        point_to(folder, "best", folder / f"step-{best:08d}")
    prune(folder, Retention(keep))
    assert steps(folder) == left
    assert names(folder) == {f"step-{s:08d}" for s in left} | ({"best.json"} if best else set())


def test_pruning_keeps_the_highest_scores_and_milestones(folder: Path) -> None:
    scores = {2: 30.0, 3: None, 4: 50.0, 5: None, 6: 50.0, 8: 40.0, 10: 10.0, 12: 20.0}
    for step, score in scores.items():
        scored = None if score is None else {"accuracy1": score}
        small(folder, step, steps_per_epoch=2, scores=scored)
    prune(folder, Retention(last=1, best=3, every=5))
    # The newest; three highest scores, of equal ones the earlier first; the end of epoch 5.
    assert steps(folder) == {12, 4, 6, 8, 10}
    prune(folder, Retention(last=1, best=1))
    assert steps(folder) == {12, 4}


def test_unreadable_checkpoints_are_not_counted_or_removed(folder: Path) -> None:
    for step in (1, 2, 3, 4):
        small(folder, step)
    flip(folder / "step-00000004" / MANIFEST)
    prune(folder, Retention(2))
    assert steps(folder) == {2, 3, 4}


def path_of(newest: tuple[Content | None, list[str]]) -> Path | None:
    found, _ = newest
    return None if found is None else found.path


def test_newest_good_checkpoint_overrides_latest_pointer(folder: Path) -> None:
    for step in (1, 2, 3, 4):
        small(folder, step)
    point_to(folder, "latest", folder / "step-00000001")
    flip(folder / "step-00000004" / STATE)
    (folder / "step-00000003" / WEIGHTS).unlink()
    found, notes = newest_good(folder)
    assert found is not None
    assert found.path == folder / "step-00000002" and found.manifest["step"] == 2
    assert len(notes) == 2 and STATE in notes[0] and WEIGHTS in notes[1]


def test_tidying_ends_what_a_killed_process_left(folder: Path) -> None:
    for step in (1, 2, 3):
        small(folder, step)
    (folder / ".step-00000004.partial").mkdir()
    (folder / ".step-00000004.partial" / WEIGHTS).write_bytes(b"half")
    (folder / ".latest.json.partial").write_bytes(b"{")
    (folder / ".step-00000000.removed").mkdir()
    # Replaced, and killed before and after the new one had its name.
    (folder / "step-00000002").rename(folder / "step-00000002.replaced")
    copy_of(folder / "step-00000003", folder / "step-00000003.replaced")
    assert next(path.name for path in checkpoints(folder)) == "step-00000003"
    tidy(folder)
    assert names(folder) == {f"step-0000000{step}" for step in (1, 2, 3)}
    assert path_of(newest_good(folder)) == folder / "step-00000003"


def test_replaced_checkpoint_is_used_if_new_is_damaged(folder: Path) -> None:
    copy_of(small(folder, 2), folder / "step-00000002.replaced")
    flip(folder / "step-00000002" / WEIGHTS)
    assert path_of(newest_good(folder)) == folder / "step-00000002.replaced"
    tidy(folder)
    assert names(folder) == {"step-00000002", "step-00000002.replaced"}


def test_a_pointer_names_one_checkpoint_and_moves(folder: Path) -> None:
    for step in (1, 2):
        small(folder, step)
    assert pointed_to(folder, "latest") is None
    for step in (1, 2, 1):
        point_to(folder, "latest", folder / f"step-{step:08d}")
        assert pointed_to(folder, "latest") == folder / f"step-{step:08d}"
    assert pointed_to(folder, "best") is None
    assert names(folder) == {"step-00000001", "step-00000002", "latest.json"}


NO_CHECKPOINTS = ("../outside/step-00000001", "/etc", "..", "", "step-00000009", "step-1", 7, None, ["a"])
NO_POINTERS = (b"", b"{", b"[]", b"{}", b"\xff\xfe", b"3", b"[" * 10**5)


@pytest.mark.parametrize(
    "content", [*NO_POINTERS, *(json.dumps({"checkpoint": named}).encode() for named in NO_CHECKPOINTS)]
)
def test_bad_pointer_points_nowhere(folder: Path, content: bytes) -> None:
    small(folder, 1)
    small(folder.parent / "outside", 1)
    (folder / "latest.json").write_bytes(content)
    assert pointed_to(folder, "latest") is None


def test_symbolic_links_are_not_followed(folder: Path) -> None:
    good = small(folder, 1)
    outside = small(folder.parent / "outside", 9)
    (folder / "step-00000009").symlink_to(outside)
    (folder / "latest.json").write_text(json.dumps({"checkpoint": "step-00000009"}))
    assert pointed_to(folder, "latest") is None
    found, notes = newest_good(folder)
    assert found is not None and found.path == good and "symbolic link" in notes[0]
    prune(folder, Retention(last=0, best=0))
    tidy(folder)
    assert names(outside) == {WEIGHTS, STATE, MANIFEST}


def test_a_checkpoints_folder_elsewhere_is_refused(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(UserError, match="leads out of the run directory"):
        checkpoints_of(run)
    (tmp_path / "linked").symlink_to(run)
    (run / "checkpoints").unlink()
    (run / "checkpoints").mkdir()
    assert checkpoints_of(tmp_path / "linked") == tmp_path / "linked" / "checkpoints"


class Stuck(Disk):
    """A disk on which nothing can be renamed."""

    def rename(self, old: Path, new: Path) -> None:
        raise PermissionError(13, "Permission denied")


def test_failed_prune_or_pointer_is_one_error(folder: Path) -> None:
    for step in (1, 2):
        small(folder, step)
    with pytest.raises(UserError, match="cannot remove an old checkpoint"):
        prune(folder, Retention(1), disk=Stuck())
    with pytest.raises(UserError, match=r"cannot write .*latest\.json"):
        point_to(folder, "latest", folder / "step-00000002", disk=Stuck())


def test_unreadable_checkpoints_are_reported() -> None:
    with unprivileged() as run:
        folder = run / "checkpoints"
        small(folder, 1)
        newest = small(folder, 2)
        newest.chmod(0)
        try:
            first, second = list_checkpoints(run)
            assert first.problem is None and "Permission denied" in str(second.problem)
            folder.chmod(0)
            with pytest.raises(UserError, match=r"cannot look for checkpoints in .*: Permission"):
                list_checkpoints(run)
        finally:
            folder.chmod(0o700)
            newest.chmod(0o700)
