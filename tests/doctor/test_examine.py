"""The doctor's stages in this environment, and stages that crash, hang or misreport."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.doctor.ascend import cann
from shufflenet_fn.doctor.data import disk
from shufflenet_fn.doctor.examine import ORDER, run_stage
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING
from shufflenet_fn_backends.support.subprocesses import run_module

FACTS = {"device": "auto", "output": "runs"}


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give the stage ``disk`` another body in the processes that stages run in."""

    def replace(body: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import shufflenet_fn.doctor.data as data\n\n\n"
            f"def disk(facts):\n    {body}\n\n\n"
            "data.disk = disk\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    return replace


def test_a_stage_that_is_killed(stages: Callable[[str], None]) -> None:
    stages("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    finding = run_stage("disk", FACTS, timeout_s=60)
    assert finding.status == FAILED
    assert "SIGSEGV" in finding.text


def test_a_stage_that_hangs(stages: Callable[[str], None]) -> None:
    stages("import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)")
    start = time.monotonic()
    finding = run_stage("disk", FACTS, timeout_s=2)
    assert time.monotonic() - start < 20
    assert finding.status == FAILED
    assert "hung" in finding.text and "2 s" in finding.text


@pytest.mark.parametrize(
    ("raised", "text", "fix"),
    [
        ("ImportError('libhccl.so: cannot open shared object file: No file')", "libhccl.so", "set_env"),
        ("__import__('shufflenet_fn.errors').errors.UserError('no lo')", "no lo", ""),
    ],
)
def test_stage_with_known_error_says_fix(
    stages: Callable[[str], None], raised: str, text: str, fix: str
) -> None:
    stages(f"raise {raised}")
    finding = run_stage("disk", FACTS, timeout_s=60)
    assert finding.status == FAILED
    assert text in finding.text and "errors.UserError" not in finding.text
    assert fix in finding.fix and bool(fix) == bool(finding.fix)


def test_stage_that_crashes_after_success_fails(stages: Callable[[str], None]) -> None:
    stages(
        "import atexit, os; atexit.register(os.abort); "
        "from shufflenet_fn.doctor.finding import Finding; return Finding('ok', 'fine')"
    )
    finding = run_stage("disk", FACTS, timeout_s=60)
    assert finding.status == FAILED
    assert "SIGABRT" in finding.text


def test_the_process_resolves_imports_as_this_one(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("print('found', *__import__('sys').argv[1:])")
    sys.path.insert(0, str(tmp_path))
    try:
        outcome = run_module("only_here", ["a", "b c"], timeout_s=60)
    finally:
        sys.path.remove(str(tmp_path))
    assert outcome.out.split() == ["found", "a", "b", "c"]
    assert outcome.code == 0 and outcome.ending == "ended with exit code 0"


@pytest.mark.slow
def test_the_doctor_here(process: Callable[..., Any], tmp_path: Path) -> None:
    outcome = process("doctor", "--json", "--device", "cpu", "--output", tmp_path, timeout=300.0)
    report = json.loads(outcome.out)
    found = {stage["name"]: stage for stage in report["stages"]}
    assert list(found) == list(ORDER)
    needed = ("python", "torch", "devices", "kernel", "collective", "loader", "disk")
    problems = {name: found[name] for name in needed if found[name]["status"] not in (OK, WARNING)}
    assert not problems
    assert report["ok"] == all(stage["status"] != FAILED for stage in report["stages"])
    assert outcome.code == (0 if report["ok"] else 1)
    assert found["collective"]["details"]["backend"] == "gloo"
    assert found["loader"]["details"]["images_per_s"] > 0
    assert found["kernel"]["details"]["relative_error"] < 1e-4


@pytest.mark.usefixtures("in_process")
def test_missing_device_fails(command: Callable[..., Any]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    outcome = command("doctor", "--device", "cuda")
    assert outcome.code == 1
    assert "no GPU" in outcome.out
    # What does not need the device goes on.
    assert "JPEGs decoded" in outcome.out


def test_values_that_are_not_allowed(command: Callable[..., Any]) -> None:
    for arguments, words in (
        (("--device", "gpu"), ("gpu", "cuda", "npu")),
        (("--timeout", "0"), ("--timeout", "above 0")),
    ):
        outcome = command("doctor", *arguments)
        assert outcome.code == 2
        assert all(word in outcome.err for word in words)


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert disk({"output": str(file / "runs")}).status == FAILED
    assert disk({"output": "/proc/nothing"}).status == FAILED
    fine = disk({"output": str(tmp_path / "new" / "runs")})
    assert fine.status == OK and fine.details["bytes_per_s"] > 0
    assert not (tmp_path / "new").exists()
    assert list(tmp_path.iterdir()) == [file]


def test_cann_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cann({"torch_npu": {"status": SKIPPED}}).status == SKIPPED
    monkeypatch.setattr("shufflenet_fn.doctor.ascend.LIBRARIES", ("libascendcl-not-there.so",))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    finding = cann({"torch_npu": {"status": FAILED}})
    assert finding.status == FAILED
    assert "libascendcl-not-there.so" in finding.text and "docs/ascend.md" in finding.fix
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/Ascend/cann")
    assert "/opt/Ascend/cann" in cann({"torch_npu": {"status": FAILED}}).fix
