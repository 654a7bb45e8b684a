"""``bench step --device npu`` on the emulator, and a run that follows what it kept."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ascend_emulator.environment import Machine, variables
from benchmarks.launch_counts.ranks import count_case
from benchmarks.launch_counts.step_counts import StepCounts
from benchmarks.launch_counts.worker import Case
from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.run.backend_choice import WORK, Work
from shufflenet_fn.run.directory import locked
from shufflenet_fn.run.plan import plan_run
from shufflenet_fn.run.resume import find_resume
from shufflenet_fn.run.resumed_settings import resumed_settings
from tests.conftest import Outcome

RECIPE = ("--arch", "x0_5", "--image-size", "32", "--batch-size", "2", "--device", "npu")
BACKENDS = ("reference", "native", "gather", "npu", "gather+step", "npu+step")


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(npu: object, libraries: Path, tmp_path: Path) -> Cli:
    """Run ``shufflenet-fn`` on one emulated device, with caches of this test alone."""

    def run(*arguments: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "shufflenet_fn_cli.main", *arguments],
            env={**os.environ, **variables(libraries, Machine()), "XDG_CACHE_HOME": str(tmp_path / "cache")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.campaign
def test_a_kept_measurement_is_followed(
    cli: Cli, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = cli(
        *("bench", "step", *RECIPE, "--rounds", "3", "--steps-per-sync", "2"),
        *("--precision", "O2", "--json", "--keep", "--profile", "traces"),
    )
    assert measured.code == 0, measured.err
    result = json.loads(measured.out)
    assert "mean nothing" in result["warning"] and "WARNING" in measured.err
    assert result["emulated"] and result["versions"]["cann"] and result["versions"]["torch_npu"]
    assert set(result["contenders"]) == {*BACKENDS, "original's shape"} and not result["left_out"]
    for found in result["contenders"].values():
        assert 0 < found["host_ms"] <= found["step_ms"]
        assert found["device_ms"] > 0 and found["img_s"] == pytest.approx(2000 / found["step_ms"])
    # The emulator records no kernels, which is said and not made up.
    for found in result["kernels"].values():
        assert "no table" in found["missing"]
        assert list(Path(tmp_path, found["folder"]).rglob("operator_details.csv"))

    # Which one is fastest here is chance, so another than the default is made it.
    path = Path(result["kept"])
    kept = json.loads(path.read_text())
    assert kept["contender"] == result["fastest"]
    assert kept["backend"] == kept["contender"].removesuffix("+step")
    path.write_text(json.dumps({**kept, "backend": "gather", "contender": "gather+step"}))
    followed = cli(
        *("train", "--data", str(image_folder), *RECIPE, "--precision", "O2", "--max-steps", "1"),
        *("--run-dir", "followed"),
    )
    assert followed.code == 0, followed.err
    assert f"backend gather: auto, the fastest of the kept measurement {path}" in followed.out
    config = json.loads((tmp_path / "followed" / "config.json").read_text())
    assert config["settings"]["running_stats"] == "step"

    # The resumed run keeps its backend, whatever is kept now.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path.write_text(json.dumps({**kept, "backend": "native", "contender": "native"}))
    with contextlib.ExitStack() as held:
        resume = find_resume(tmp_path / "followed", locked, held).resume
    assert resume is not None
    resolved, notes = resumed_settings(resume, {})
    assert "backend gather: kept from the start" in notes
    assert plan_run(resolved, resume=resume).backend == "gather"

    # The same for another CANN is named and not followed.
    kept["case"]["versions"]["cann"] = "8.5.0"
    path.unlink()
    older = path.with_name(path.name.replace(result["versions"]["cann"], "8.5.0"))
    older.write_text(json.dumps(kept))
    given = {"data": str(image_folder), "arch": "x0_5", "image_size": 32, "batch_size": 2}
    plan = plan_run(resolve({**given, "device": "npu", "precision": "O2"}))
    assert plan.backend == "gather" and any("least estimated cost" in note for note in plan.notes)
    assert any(f"{older} is of cann 8.5.0" in note for note in plan.notes)


# ---- the estimate behind ``--backend auto`` on an NPU without a measurement ----


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["gather", "npu"])
def test_work_is_what_the_model_gives(libraries: Path, npu: Any, name: str) -> None:
    small, large = (
        StepCounts(**count_case(libraries, Case(name, "fp32", size, 224, "x0_5"), timeout_s=240))
        for size in (2, 4)
    )
    per_image = (large.moved - small.moved) // 2
    assert WORK["shufflenet_v2_x0_5", "fp32"][name] == Work(
        large.kernels, large.moved - 4 * per_image, per_image
    )
