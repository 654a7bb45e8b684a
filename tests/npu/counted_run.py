"""A small training run on the emulator, and what it asked of the device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ascend_emulator.counters import DeviceCounts
from ascend_emulator.environment import Machine, variables
from ascend_emulator.report import PATTERN, read_reports

CLI = (sys.executable, "-m", "shufflenet_fn_cli.main")


def counted_run(libraries: Path, image_folder: Path, run: Path, *options: str) -> DeviceCounts:
    """Train one epoch into ``run`` with ``options``, and count."""
    counts = run.with_name(f"counts-{run.name}")
    counts.mkdir()
    recipe = ("--arch", "x0_5", "--image-size", "32", "--batch-size", "2", "--epochs", "1")
    settings = variables(libraries, Machine(), report=str(counts / PATTERN))
    done = subprocess.run(
        [
            *(*CLI, "train", "--data", str(image_folder), *recipe, "--device", "npu"),
            *("--run-dir", str(run), *options),
        ],
        env={**os.environ, **settings},
        cwd=run.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (process,) = [one for one in read_reports(counts) if one.total.launches]
    return process.total
