"""Detection of NPUs: one message for each problem, and no crash of this process."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.doctor import examine
from shufflenet_fn.doctor.ascend import torch_npu as stage
from shufflenet_fn.run.plan import plan_run
from shufflenet_fn_backends.runtimes.npu.probe import check_pair, explain_failure, look, no_device, probe
from shufflenet_fn_backends.runtimes.select import select_runtime
from shufflenet_fn_backends.support.errors import DeviceError
from shufflenet_fn_backends.support.subprocesses import Outcome
from tests.runtimes.conftest import MINOR, Chip, Installed, with_devices

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_npu") is not None,
    reason="here the real torch_npu is installed; its probe is tested in tests/npu",
)

CUDA = torch.version.cuda is not None


def problem() -> str:
    found = look()
    assert found.devices == 0
    assert found.problem is not None and "\n" not in found.problem
    return found.problem


def test_not_installed() -> None:
    text = problem()
    assert "not installed" in text and f"torch_npu=={MINOR}.*" in text


def test_a_pair_that_does_not_go_together(torch_npu: Installed) -> None:
    torch_npu("raise AssertionError('need not be imported')", version="2.1.0.post17")
    text = problem()
    assert "2.1.0.post17" in text and f"torch {torch.__version__.partition('+')[0]}" in text
    assert "torch==2.1.*" in text and f"torch_npu=={MINOR}.*" in text
    finding = stage({"device": "auto", "torch": {"version": torch.__version__, "cuda": None}})
    assert finding.status == "failed"
    assert "2.1.0.post17" in finding.text and f"torch_npu=={MINOR}.*" in finding.fix


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ("2.13.0+cpu", "2.13.0", True),
        ("2.13.0", "2.13.0.post4", True),
        ("2.13.0", "2.13.0rc1", True),
        ("2.13.1", "2.13.0", True),
        ("2.12.0", "2.13.0", False),
        ("2.1.0", "2.10.0", False),
        (None, "2.13.0", True),
    ],
)
def test_pairs(ours: str | None, theirs: str, fits: bool) -> None:
    assert (check_pair(ours, theirs) is None) == fits


def test_an_abort_while_it_is_imported(torch_npu: Installed) -> None:
    """As beside a CUDA build of torch."""
    torch_npu("import os; os.abort()")
    text = problem()
    assert "SIGABRT" in text
    assert ("CUDA" in text and "CPU build" in text) == CUDA


def test_crash_beside_a_cuda_build_names_cuda() -> None:
    outcome = Outcome(-6, "", "Aborted")
    facts = {"torch": "2.14.1+cu130", "cuda": "13.0"}
    text = explain_failure(outcome, facts)
    assert "2.14.1+cu130" in text and "SIGABRT" in text and "download.pytorch.org/whl/cpu" in text
    said = Outcome(-6, "", "what(): Duplicated key 'pinned_reserve_segment_size_mb' found in device")
    assert "CPU build" in explain_failure(said, facts)
    other = explain_failure(outcome, {"torch": "2.13.0+cpu", "cuda": None})
    assert "CUDA" not in other and "set_env.sh" in other


def test_a_hang(torch_npu: Installed) -> None:
    torch_npu("import time; time.sleep(60)")
    start = time.monotonic()
    found = look(timeout_s=8)
    assert time.monotonic() - start < 30
    assert found.problem is not None and "did not end in time" in found.problem


def test_no_device(torch_npu: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_npu(with_devices(0, ""))
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    assert "/dev/davinci0" in problem()
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "9")
    assert "ASCEND_RT_VISIBLE_DEVICES=9" in no_device()


def test_devices(torch_npu: Installed) -> None:
    torch_npu(with_devices(8, "Ascend910B3"))
    assert probe()[:3] == (8, "Ascend910B3", None)
    runtime, reason = select_runtime("auto")
    assert runtime.name == "npu" and "auto" in reason
    assert runtime.device_count() == 8
    assert runtime.dist_backend == "hccl"


def test_an_explicit_npu_is_refused_with_the_reason(torch_npu: Installed) -> None:
    torch_npu("raise ImportError('libascendcl.so: cannot open shared object file')")
    with pytest.raises(DeviceError, match=r"set_env\.sh.*--device cpu.*doctor"):
        select_runtime("npu")
    runtime, reason = select_runtime("auto")
    assert runtime.name in ("cpu", "cuda")
    assert "no npu" in reason and "CANN" in reason


@pytest.mark.parametrize(
    ("soc", "chosen", "why"),
    [("Ascend910A", "O2", "no bfloat16"), ("Ascend910B2", "bf16", "computes in bfloat16")],
)
def test_precision_follows_the_chip(chip: Chip, image_folder: Path, soc: str, chosen: str, why: str) -> None:
    chip(8, soc)
    given = {"data": str(image_folder), "device": "npu", "batch_size": 8, "precision": "auto"}
    plan = plan_run(resolve(given))
    assert plan.settings.precision == chosen
    assert any(f"precision {chosen}" in note and soc in note and why in note for note in plan.notes)


def test_bfloat16_is_refused_where_the_chip_has_none(
    chip: Chip, command: Callable[..., Any], image_folder: Path
) -> None:
    chip(8, "Ascend910ProA")
    outcome = command(
        *("train", "--data", image_folder, "--device", "npu", "--batch-size", 8),
        *("--precision", "bf16", "--run-dir", "run"),
    )
    assert outcome.code == 2
    for word in ("--precision bf16", "bfloat16", "Ascend910ProA", "float16", "--precision O2"):
        assert word in outcome.err
    assert not Path("run").exists()


def test_more_devices_than_there_are(chip: Chip, command: Callable[..., Any], image_folder: Path) -> None:
    chip(2, "Ascend910B1")
    outcome = command(
        *("train", "--data", image_folder, "--device", "npu", "--devices", 8, "--batch-size", 8)
    )
    assert outcome.code == 3
    assert "2 (numbers 0,1)" in outcome.err and "--devices 2" in outcome.err


def test_compile_says_what_is_known(chip: Chip, image_folder: Path) -> None:
    chip(1, "Ascend910B1")
    given = {"data": str(image_folder), "device": "npu", "batch_size": 8}
    assert not any("triton-ascend" in text for text in plan_run(resolve(given)).warnings)
    compiled = plan_run(resolve({**given, "compile": True}))
    assert any("triton-ascend" in text for text in compiled.warnings)


def test_broken_torch_npu_does_not_affect_cpu_training(
    torch_npu: Installed, process: Callable[..., Any], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_npu("raise ImportError('libhccl.so: cannot open shared object file: No such file')")
    recipe = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--max-steps", 1)
    arguments = ("train", "--data", image_folder, "--device", "cpu", *recipe)
    # As a process that has imported torch_npu leaves it; torch takes it for 1 where it is unset.
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    outcome = process(*arguments, "--run-dir", "run")
    assert outcome.code == 0, outcome.err


def test_the_doctor_explains_a_broken_torch_npu(
    torch_npu: Installed, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_npu("raise ImportError('libhccl.so: cannot open shared object file: No such file')")
    monkeypatch.setattr(examine, "ORDER", ("torch", "torch_npu", "cann", "devices", "loader"))
    outcome = command("doctor", "--json")
    found = {stage["name"]: stage for stage in json.loads(outcome.out)["stages"]}
    assert outcome.code == 1
    assert found["torch_npu"]["status"] == found["cann"]["status"] == "failed"
    assert "libhccl.so" in found["torch_npu"]["text"]
    assert "plain `import torch` fails as well" in found["torch_npu"]["fix"]
    assert found["devices"]["details"]["kind"] in ("cpu", "cuda")
    assert found["loader"]["status"] == "ok"


@pytest.mark.parametrize(("device", "status"), [("auto", "skipped"), ("npu", "failed")])
def test_doctor_requires_torch_npu_only_for_npu(device: str, status: str) -> None:
    finding = stage({"device": device, "torch": {"version": torch.__version__, "cuda": None}})
    assert finding.status == status
    assert (f"torch_npu=={MINOR}.*" in finding.fix) == (device == "npu")
