"""The training loop does not wait for the device that it feeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shufflenet_fn_backends.ascend_emulator.counters import DeviceCounts
from shufflenet_fn_backends.ascend_emulator.environment import Machine, variables
from shufflenet_fn_backends.ascend_emulator.report import PATTERN, read_reports

CLI = (sys.executable, "-m", "shufflenet_fn_cli.main")


def counted(libraries: Path, image_folder: Path, place: Path, steps: int) -> DeviceCounts:
    """What a run of so many steps of one epoch counts."""
    counts = place / f"counts-{steps}"
    counts.mkdir()
    recipe = ("--arch", "x0_5", "--image-size", "32", "--batch-size", "2", "--epochs", "1")
    run = ("--device", "npu", "--max-steps", str(steps), "--run-dir", str(place / f"run-{steps}"))
    settings = variables(libraries, Machine(), report=str(counts / PATTERN))
    done = subprocess.run(
        [*CLI, "train", "--data", str(image_folder), *recipe, *run],
        env={**os.environ, **settings},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (process,) = [one for one in read_reports(counts) if one.total.launches]
    return process.total


def test_a_step_of_a_run_waits_for_no_step_that_is_under_way(
    libraries: Path, npu: object, image_folder: Path, tmp_path: Path
) -> None:
    few, many = (counted(libraries, image_folder, tmp_path, steps) for steps in (8, 10))
    assert many.launches > few.launches
    more = {what: times - few.syncs.get(what, 0) for what, times in many.syncs.items()}
    # Four events a step: that of the metrics of the step before the last, that of the upload before that, and
    # the two between which that step's device may have been idle, which torch_npu asks for to subtract them.
    assert {what: times for what, times in more.items() if times} == {"aclrtSynchronizeEvent": 8}
