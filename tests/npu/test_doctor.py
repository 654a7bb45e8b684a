"""The doctor in the NPU's environment: on the emulator, and with no CANN at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ascend_emulator.pytest_plugin import OnEmulator
from shufflenet_fn.doctor.examine import ORDER
from tests.doctor.test_bundle import private_words, read

DOCTOR = (
    "from shufflenet_fn_cli.main import main; import sys; "
    "sys.argv[:] = ['shufflenet-fn', *sys.argv[1:]]; main()"
)
NOWHERE = {"LD_LIBRARY_PATH": "/nowhere", "ASCEND_HOME_PATH": ""}


def examined(on_emulator: OnEmulator, *arguments: str, **machine: Any) -> tuple[int, dict[str, Any]]:
    ran = on_emulator(DOCTOR, "doctor", "--json", *arguments, timeout=300.0, **machine)
    report = json.loads(ran.out)
    found = {stage["name"]: stage for stage in report["stages"]}
    assert list(found) == list(ORDER)
    return ran.code, found


@pytest.mark.slow
def test_two_emulated_devices(on_emulator: OnEmulator) -> None:
    code, found = examined(on_emulator, "--device", "npu", devices=2)
    assert code == 0, found
    assert found["torch_npu"]["status"] == "ok"
    # That it is no chip is said.
    assert found["cann"]["status"] == "warning" and "not speed" in found["cann"]["text"]
    assert found["devices"]["details"] == {"kind": "npu", "count": 2, "chip": "Ascend910B1"}
    assert found["kernel"]["status"] == "ok" and found["kernel"]["details"]["relative_error"] < 1e-4
    assert set(found["kernel"]["details"]["errors"]) == {"float32", "bfloat16"}
    assert found["collective"]["status"] == "ok"
    assert found["collective"]["details"]["backend"] == "hccl"
    # Ascend's table and the files in /dev say nothing of an emulated CANN.
    assert found["versions"]["status"] == found["device files"]["status"] == "skipped"
    assert found["network"]["text"].startswith("HCCL takes ")


@pytest.mark.campaign
def test_a_910a_computes_in_float16(on_emulator: OnEmulator) -> None:
    finding = stage(on_emulator, "kernel", soc="Ascend910A")
    assert finding["status"] == "warning", finding
    assert set(finding["details"]["errors"]) == {"float32", "float16"}
    assert "--precision O2" in finding["fix"] and "list no convolution" in finding["fix"]


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("devices", "words"),
    [(("--devices", "3"), "1, 2, 4 or 8"), (("--device-list", "0,1,4,5"), "0-3 or all in 4-7")],
)
def test_a_910a_joins_groups_only(
    on_emulator: OnEmulator, image_folder: Path, devices: tuple[str, str], words: str
) -> None:
    arguments = ("train", "--data", str(image_folder), "--device", "npu", *devices)
    ran = on_emulator(DOCTOR, *arguments, devices=8, soc="Ascend910A")
    assert ran.code == 2
    assert words in ran.err and "Traceback" not in ran.err


@pytest.mark.campaign
def test_float32_on_910a_warns(on_emulator: OnEmulator, image_folder: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", str(image_folder), "--arch", "x0_5", "--image-size", "32")
    arguments += ("--batch-size", "8", "--epochs", "1", "--device", "npu", "--precision")
    warning = "computes float32 convolutions and matrix products in float16"
    ran = on_emulator(
        DOCTOR, *arguments, "fp32", "--run-dir", f"{tmp_path}/a", soc="Ascend910A", timeout=300.0
    )
    assert ran.code == 0, ran.err
    assert warning in ran.out + ran.err


STAGE = """
import json, sys
from shufflenet_fn.doctor.examine import run_stage
facts = {"devices": {"kind": "npu", "count": int(sys.argv[2])}}
print(json.dumps(run_stage(sys.argv[1], facts, timeout_s=float(sys.argv[3]))._asdict()))
"""


def stage(
    on_emulator: OnEmulator, name: str, *, devices: int = 2, timeout: int = 120, **machine: Any
) -> dict[str, Any]:
    ran = on_emulator(STAGE, name, str(devices), str(timeout), devices=devices, **machine)
    finding: dict[str, Any] = json.loads(ran.out)
    return finding


@pytest.mark.campaign
def test_collective_is_skipped_for_one_device(on_emulator: OnEmulator) -> None:
    finding = stage(on_emulator, "collective", devices=1)
    assert finding["status"] == "skipped" and "one" in finding["text"]


@pytest.mark.campaign
def test_an_operator_that_fails(on_emulator: OnEmulator) -> None:
    finding = stage(on_emulator, "kernel", faults="op:aclnnConvolution@1")
    assert finding["status"] == "failed" and finding["fix"]


@pytest.mark.campaign
def test_a_rank_that_dies_in_a_collective(on_emulator: OnEmulator) -> None:
    finding = stage(on_emulator, "collective", faults="hccl:kill@1#1")
    assert finding["status"] == "failed"
    assert "rank 1 was killed by SIGKILL" in json.dumps(finding)


@pytest.mark.campaign
def test_a_rank_that_hangs_in_a_collective(on_emulator: OnEmulator) -> None:
    finding = stage(on_emulator, "collective", timeout=15, faults="hccl:hang@1#1")
    assert finding["status"] == "failed" and "hung" in finding["text"]


@pytest.mark.campaign
def test_without_cann(on_emulator: OnEmulator) -> None:
    code, found = examined(on_emulator, environ=NOWHERE)
    assert code == 1
    assert found["torch"]["status"] == "ok"
    assert found["torch_npu"]["status"] == found["cann"]["status"] == "failed"
    assert "cannot open shared object file" in found["torch_npu"]["text"]
    assert "set_env.sh" in found["torch_npu"]["fix"]
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in found["torch_npu"]["fix"]
    assert found["devices"]["status"] == "warning"
    assert found["loader"]["status"] == "ok"


@pytest.mark.campaign
def test_training_without_cann(on_emulator: OnEmulator, image_folder: Path, tmp_path: Path) -> None:
    """On the CPU it works, where a plain ``import torch`` would not; on an NPU it says what is missing."""
    arguments = ("train", "--data", str(image_folder), "--arch", "x0_5", "--image-size", "32")
    arguments += ("--batch-size", "8", "--max-steps", "1", "--run-dir")
    trained = on_emulator(
        DOCTOR, *arguments, f"{tmp_path}/a", "--device", "cpu", environ=NOWHERE, timeout=300.0
    )
    assert trained.code == 0, trained.err
    refused = on_emulator(
        DOCTOR, *arguments, f"{tmp_path}/b", "--device", "npu", environ=NOWHERE, timeout=300.0
    )
    assert refused.code == 3
    assert "Traceback" not in refused.err
    assert "CANN" in refused.err and "set_env.sh" in refused.err


# ---- ``doctor --device npu --bundle`` on the emulator ----


@pytest.mark.campaign
def test_a_bundle_of_an_emulated_chip(on_emulator: OnEmulator, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    ran = on_emulator(DOCTOR, "doctor", "--device", "npu", "--bundle", str(path), devices=1, timeout=590.0)
    assert ran.code == 0, ran.err
    found = read(path)
    assert not private_words(path)
    assert found["versions.json"]["emulated"] and found["versions.json"]["packages"]["torch_npu"]
    assert found["versions.json"]["device"]["chip"] == "Ascend910B1"
    steps = found["steps.json"]
    assert len(steps["npu fp32"]["losses"]) == len(steps["cpu fp32"]["losses"]) == 3
    # Both start from the same weights and take the same images.
    assert steps["npu fp32"]["losses"][0] == pytest.approx(steps["cpu fp32"]["losses"][0], rel=1e-3)
    bench = found["bench.json"]["fp32"]
    assert {"npu", "reference", "original's shape"} <= set(bench["contenders"])
    assert "mean nothing" in bench["warning"]
    # The emulator records no kernels: the reason stands there, and no figures.
    tables = found["kernels.json"]["fp32"]["batch 2"]
    assert set(tables) == set(bench["contenders"])
    assert all(set(table) == {"missing"} for table in tables.values())
