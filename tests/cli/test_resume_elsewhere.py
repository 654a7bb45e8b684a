"""Going on where a run directory or its checkpoint is not what a resume usually finds."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.checkpoint.describe import compare
from shufflenet_fn.checkpoint.format import REPLACED
from shufflenet_fn.checkpoint.inventory import checkpoints, checkpoints_of
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.distributed.world import World
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn.run import plan as planning
from shufflenet_fn.run.directory import LOCK, RunInUse
from shufflenet_fn.run.directory import locked as lock_of
from shufflenet_fn.run.plan import RunPlan, prepare_run
from shufflenet_fn.run.resume import Resume, find_resume, find_run, newest_of
from tests.cli.conftest import TINY, records

Command = Callable[..., Any]


def planned(world: World | None = None, **given: Any) -> RunPlan:
    with contextlib.ExitStack() as held:
        return prepare_run(given, preset=None, config_file=None, argv=(), held=held, world=world)


def found_in(path: Path) -> Resume:
    with contextlib.ExitStack() as held:
        resume = find_resume(path, lock_of, held).resume
    assert resume is not None
    return resume


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoint after the first epoch, in a folder that is no run's."""
    name = "step-00000003"
    return Path(shutil.copytree(finished / "checkpoints" / name, tmp_path / "kept" / "of" / name))


@pytest.mark.parametrize(("where", "made"), [((), "runs/x0_5-001"), (("--run-dir", "other"), "other")])
def test_copied_checkpoint_starts_new_run_directory(
    command: Command, finished: Path, copy: Path, tmp_path: Path, where: tuple[str, ...], made: str
) -> None:
    outcome = command("train", "--resume", copy, *where)
    assert outcome.code == 0, outcome.err
    assert f"{copy} lies in no run directory" in outcome.out
    last = "checkpoints/step-00000009"
    ends = [read_checkpoint(folder / last) for folder in (finished, tmp_path / made)]
    assert compare(*ends).identical


def test_a_checkpoint_named_from_within_its_run(
    command: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "checkpoints")
    outcome = command("train", "--resume", "step-00000003", "--max-steps", 4)
    assert outcome.code == 0, outcome.err
    assert (run / "checkpoints" / "step-00000004").is_dir()


def test_restart_of_copy_uses_copy_then_own_checkpoint(finished: Path, copy: Path, tmp_path: Path) -> None:
    """Not from the beginning, before its own first checkpoint; later from that, also if the copy is gone."""
    resume = found_in(copy)
    assert resume.checkpoint == copy and resume.run_dir is None
    folder = checkpoints_of(tmp_path / "own")
    folder.mkdir(parents=True)

    def newest() -> Path | None:
        found, skipped = newest_of(tmp_path / "own", resume)
        assert not skipped
        return None if found is None else found.checkpoint

    assert newest() == copy
    own = shutil.copytree(finished / "checkpoints" / "step-00000006", folder / "step-00000006")
    assert newest() == own
    shutil.rmtree(copy)
    assert newest() == own


def test_restart_continues_from_superseded_branch(run: Path) -> None:
    folder = checkpoints_of(run)
    third, sixth = (folder / f"step-0000000{step}" for step in (3, 6))
    aside = Path(shutil.copytree(sixth, folder / "superseded-step-00000006"))
    plan = planned(resume=str(aside))
    resume = plan.resume
    assert resume is not None
    assert (resume.checkpoint, resume.run_dir, plan.run_dir) == (aside, run, run)
    assert [path.name for path in checkpoints(folder)] == [third.name]
    assert f"{sixth.name} is of another branch and was renamed to {aside.name}-2" in plan.notes
    assert newest_of(run, resume) == (resume, [])
    # An evaluation that was owed is done, and saved, before the first update.
    own = shutil.copytree(aside, sixth)
    found, _ = newest_of(run, resume)
    assert found is not None and found.checkpoint == own


@pytest.mark.parametrize("first", ["a later checkpoint", "none yet"])
def test_resume_uses_checkpoints_written_before_lock(
    run: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """As by the job before, that is being stopped while this one, in its place, looks for a checkpoint."""
    saved = [run / "checkpoints" / f"step-0000000{step}" for step in (3, 6, 9)]
    later = [saved[-1]] if first == "a later checkpoint" else saved
    for path in later:
        path.rename(tmp_path / path.name)

    @contextlib.contextmanager
    def lock(run_dir: Path) -> Iterator[str | None]:
        for path in later:
            (tmp_path / path.name).rename(path)
        with lock_of(run_dir) as warning:
            yield warning

    monkeypatch.setattr(planning, "locked", lock)
    small: dict[str, Any] = {"arch": "x0_5", "image_size": 32, "batch_size": 8, "device": "cpu"}
    plan = planned(resume="auto", run_dir=str(run), data=str(image_folder), **small)
    assert (run / LOCK).exists()
    assert plan.resume is not None and plan.resume.checkpoint == saved[2] and saved[2].is_dir()
    assert not list((run / "checkpoints").glob("superseded-*"))


def test_resume_finds_checkpoint_killed_between_renames(command: Command, run: Path) -> None:
    for step in (6, 9):
        shutil.rmtree(run / "checkpoints" / f"step-0000000{step}")
    last = run / "checkpoints" / "step-00000003"
    last.rename(last.with_name(f"{last.name}{REPLACED}"))
    outcome = command("train", "--resume", run, "--max-steps", 4)
    assert outcome.code == 0, outcome.err
    assert "at step 3" in outcome.out and last.is_dir()
    assert json.loads((last.parent / "best.json").read_text()) == {"checkpoint": last.name}
    assert not list(last.parent.glob(f"*{REPLACED}"))


def test_a_run_in_use_is_not_read(run: Path) -> None:
    """Its checkpoints come and go; one that went meanwhile would be called damaged."""
    newest = run / "checkpoints" / "step-00000009"
    with lock_of(run), pytest.raises(RunInUse):
        planned(resume=str(run), clip_norm=1.0)
    with pytest.raises(UsageError, match="other settings"):
        planned(resume=str(run), clip_norm=1.0)
    assert newest.is_dir()
    with lock_of(run):  # by nobody
        pass


@pytest.mark.parametrize("pruned", [False, True])
def test_processes_that_torchrun_starts_again(run: Path, pruned: bool) -> None:
    """With the command's ``--resume CHECKPOINT``, which the run has gone on from since."""
    named, newest = (run / "checkpoints" / f"step-0000000{step}" for step in (3, 9))
    if pruned:
        shutil.rmtree(named)
    plan = planned(World(attempt=1), resume=str(named))
    assert plan.run_dir == run
    found, skipped = newest_of(run, plan.resume)
    assert found is not None and found.checkpoint == newest and not skipped


@pytest.mark.parametrize("resumed_from_one", [False, True])
def test_run_with_only_damaged_checkpoints_is_not_restarted(run: Path, resumed_from_one: bool) -> None:
    resume = found_in(run)
    for checkpoint in (folder := checkpoints_of(run)).iterdir():
        if checkpoint.is_dir():
            (checkpoint / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=f"no checkpoint in {folder} can be used.*step-00000009"):
        newest_of(run, resume if resumed_from_one else None)


def test_a_run_that_has_no_checkpoint_yet(command: Command, image_folder: Path, tmp_path: Path) -> None:
    """As one that failed before its first: what is advised does go on."""
    train = ("train", *TINY, "--data", image_folder, "--epochs", 1, "--run-dir", "run")
    begun = command(*train, "--max-steps", 1)
    assert begun.code == 0, begun.err
    assert re.search(r"done in [\d:]+: Acc@1 [\d.]+ after 1 updates", begun.out), begun.out
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = command(*train)
    assert again.code == 2 and "without a checkpoint yet" in again.err
    assert "--resume auto" in again.err
    resumed = command("train", "--resume", "run")
    assert resumed.code == 2 and "--run-dir run --resume auto" in resumed.err
    assert command(*train, "--resume", "auto").code == 0
    # Of the first start the metrics only say that there was one.
    kinds = [record["kind"] for record in records(tmp_path / "run", "start", "train", "eval")]
    assert kinds == ["start", "start", "train", "train", "eval"], kinds


@pytest.mark.parametrize(
    ("options", "way_on"),
    [((), "--epochs 4 or more"), (("--max-steps", 5), "leave it out or give a higher one")],
)
def test_a_finished_run_keeps_its_results(
    command: Command, run: Path, options: tuple[object, ...], way_on: str
) -> None:
    """Where its command is given once more, as by a scheduler: a start without steps has no speed."""
    if options:  # a trial that has come to its end
        third = run / "checkpoints" / "step-00000003"
        assert command("train", "--resume", third, *options).code == 0
    results = json.loads((run / "results.json").read_text())
    outcome = command("train", "--resume", run, *options)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "results.json").read_text()) == results
    assert "nothing is left to do" in outcome.out and way_on in outcome.out


def test_auto_names_the_finished_run_that_it_passes_over(run: Path, tmp_path: Path) -> None:
    done = run.rename(tmp_path / "x0_5-001")
    settings = TrainSettings(arch="shufflenet_v2_x0_5", output=str(tmp_path))
    results = json.loads((done / "results.json").read_text())
    for steps, is_done in ((9, True), (8, False)):
        (done / "results.json").write_text(json.dumps({**results, "steps": steps}))
        with contextlib.ExitStack() as held:
            found = find_run(settings, lock_of, held)
        assert (found.resume is None) is is_done
        assert is_done == (f"{done} is done, and goes on with --resume" in found.notes[-1])


def test_continued_finished_run_is_unfinished(command: Command, run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    again = run.rename(runs / "x0_5-001")
    # A missing image is found when the first batch is read, after the run has gone on.
    data = Path(json.loads((again / "config.json").read_text())["settings"]["data"])
    spoilt = Path(shutil.copytree(data, tmp_path / "spoilt"))
    for image in (spoilt / "train").rglob("*.jpg"):
        image.write_bytes(b"no image")
    failed = command("train", "--resume", again, "--epochs", 4, "--data", spoilt)
    assert failed.code == 1, failed.out
    auto = command("train", *TINY, "--data", data, "--epochs", 4, "--resume", "auto")
    assert auto.code == 0, auto.err
    assert [path.name for path in runs.iterdir()] == ["x0_5-001"]
