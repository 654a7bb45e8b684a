"""``doctor --device npu --bundle`` on the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from ascend_emulator.pytest_plugin import OnEmulator
from tests.doctor.test_bundle import private_words, read

DOCTOR = (
    "from shufflenet_fn_cli.main import main; import sys; "
    "sys.argv[:] = ['shufflenet-fn', *sys.argv[1:]]; main()"
)


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
