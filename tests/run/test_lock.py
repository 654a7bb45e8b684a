"""One run at a time in a run directory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from shufflenet_fn.config.resolve import Resolved
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn.run.directory import LOCK, RunInUse, create_run_dir, locked

_HOLDER = """
import sys, time
from pathlib import Path
from shufflenet_fn.run.directory import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    held = (sys.executable, "-c", _HOLDER, str(tmp_path))
    with subprocess.Popen(held, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(RunInUse, match=rf"in use by process {other.pid} on .*, since 2"):
                locked(tmp_path).__enter__()
        finally:
            other.kill()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid
    with locked(tmp_path) as warning:
        assert warning is None
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_failing_file_system_does_not_hide_error(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with pytest.raises(UserError, match="the disk is full"), locked(run_dir):
        run_dir.rename(tmp_path / "gone")
        run_dir.touch()
        with pytest.raises(NotADirectoryError):
            (run_dir / LOCK).unlink()
        raise UserError("the disk is full")


@pytest.mark.parametrize("note", [b"", b"\xff", b"[]", b'{"started": "x"}', b'{"started": 1e3'])
def test_unnamed_lock_holder_is_respected(tmp_path: Path, note: bytes) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).write_bytes(note)
        with pytest.raises(RunInUse, match="in use by another run"):
            locked(tmp_path).__enter__()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write in the run directory .*nowhere: No such file"):
        locked(tmp_path / "nowhere").__enter__()


def test_a_full_disk_leaves_nothing_locked(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write in the run directory"):
            locked(tmp_path).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with locked(tmp_path):  # by nobody
        pass


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="run directory"):
        locked(tmp_path).__enter__()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    ("file", "free"),
    [(LOCK, True), (".config.json.partial", True), ("notes.txt", False), ("checkpoints/step-1", False)],
)
def test_start_killed_before_its_settings_leaves_a_free_directory(
    file: str, free: bool, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / file).touch()
    resolved = Resolved(TrainSettings(run_dir=str(tmp_path)), {}, None)
    if free:
        assert create_run_dir(resolved) == tmp_path
    else:
        with pytest.raises(UsageError, match="is not empty"):
            create_run_dir(resolved)
