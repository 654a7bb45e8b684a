"""``bench step`` on devices: its candidates and what is made of their times. Here they compute on the CPU;
tests/npu has the whole command on the emulator."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shufflenet_fn.bench.device_step import (
    Turn,
    _kernels,
    _warmed_up,
    build_device_step,
    compared,
    kernel_table,
    take_turn,
)
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.step_candidates import VARIANTS, build_candidate, ours_on
from shufflenet_fn.bench.workers import workers
from shufflenet_fn_backends.names import BACKEND_NAMES
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import UsageError, UserError
from shufflenet_fn_cli.bench_table import print_device_step
from tests.model.support import one_thread

__all__ = ["one_thread"]

SETTINGS = StepBenchSettings(
    arch="shufflenet_v2_x0_5", device="cpu", image_size=32, batch_size="4", steps=2, rounds=3
)


def losses(name: str, settings: StepBenchSettings) -> list[float]:
    step = build_candidate(name, settings, runtime_of("cpu"))
    return [float(step()) for _ in range(2)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("O2", 0.05)])
def test_every_backend_takes_the_same_step(precision: str, tolerance: float) -> None:
    settings = replace(SETTINGS, precision=precision)
    expected, _ = losses("reference", settings)
    for name in VARIANTS:
        first, second = losses(name, settings)
        assert first == pytest.approx(expected, rel=tolerance)
        assert second < 0.9 * first  # at a rate at which rounding grows: how far is chance


def test_torchvision_takes_a_step_with_a_loss_scale() -> None:
    pytest.importorskip("torchvision")
    exact = losses("torchvision channels_last", SETTINGS)
    scaled = losses("torchvision channels_last", replace(SETTINGS, precision="O1"))
    assert scaled != exact
    assert scaled[0] == pytest.approx(exact[0], rel=0.05)


def test_every_backend_of_a_device_takes_part() -> None:
    assert ours_on("npu", SETTINGS) == (
        *("reference", "native", "gather", "npu"),
        *("gather+step", "npu+step"),
    )
    assert ours_on("cuda", SETTINGS) == ("reference", "native", "gather", "routed")
    assert {name.removesuffix("+step") for name in VARIANTS} == set(BACKEND_NAMES) - {"cpu"}
    some = replace(SETTINGS, backend="gather, npu", ours_compile=True)
    assert ours_on("npu", some) == ("gather", "npu", "gather compiled", "npu compiled")


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("gahter", ("'gahter'", "did you mean 'gather'")),
        ("gather,cpu", ("'cpu'", "npu", "gather")),
        ("gather,gather", ("twice",)),
        ("routed", ("'routed'", "npu")),
    ],
)
def test_backends_of_no_use_are_refused(backend: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        ours_on("npu", replace(SETTINGS, backend=backend))
    for word in words:
        assert word in str(refused.value)


def test_turn_takes_the_given_steps() -> None:
    taken: list[int] = []
    turn = take_turn(lambda: taken.append(1), 5, "cpu")
    assert len(taken) == 5
    assert 0 < turn.host <= turn.step
    assert turn.device is None


def test_a_candidate_that_fails_is_left_out() -> None:
    def turn(name: str) -> Turn:
        if name == "bad":
            raise UserError("no such operator")
        return Turn(1.0, 1.0, None)

    told: list[str] = []
    assert _warmed_up(turn, ["good", "bad"], told.append) == {"bad": "no such operator"}
    assert told[-1] == "WARNING: not measured: bad (no such operator)"


@pytest.mark.usefixtures("in_process")
def test_each_profile_has_its_own_folder(tmp_path: Path) -> None:
    settings = replace(SETTINGS, profile=str(tmp_path))
    with workers(["device"], build_device_step, settings, threads=1) as (worker,):
        found = _kernels(worker, ["gather"], settings, lambda text: None)["gather"]
    folder = Path(found["folder"])
    assert folder.parent == tmp_path and "gather" in folder.name
    assert list(folder.glob("*.pt.trace.json"))
    assert "no table" in found["missing"]  # a CPU has operators and no kernels


OURS = ["reference", "gather"]
TURNS = {
    "reference": [Turn(0.004, 0.001, 0.0039)] * 3,
    "gather": [Turn(0.002, 0.001, 0.0019)] * 3,
    "peer": [Turn(0.003, 0.003, None)] * 3,
}


def test_ratios_are_to_the_best_peer_or_ours() -> None:
    found = compared(TURNS, OURS, ["peer"], SETTINGS)
    assert (found["baseline"], found["best_peer"], found["fastest"]) == ("peer", "peer", "gather")
    assert found["contenders"]["gather"] == {
        "ours": True,
        "img_s": pytest.approx(2000),
        "step_ms": pytest.approx(2),
        "host_ms": pytest.approx(1),
        "device_ms": pytest.approx(1.9),
        "ratio": pytest.approx(1.5),
        "ratio_interval": (pytest.approx(1.5), pytest.approx(1.5)),
    }
    assert found["contenders"]["peer"]["ratio"] is None
    assert found["contenders"]["peer"]["device_ms"] is None
    assert found["fastest_over_next"]["next"] == "reference"
    assert found["fastest_over_next"]["ratio"] == pytest.approx(2)
    assert found["ratio_best_peer"] == pytest.approx(1.5) and found["conclusive"]
    alone = compared({name: TURNS[name] for name in OURS}, OURS, [], SETTINGS)
    assert (alone["baseline"], alone["best_peer"], alone["ratio_best_peer"]) == ("reference", None, None)
    assert alone["contenders"]["gather"]["ratio"] == pytest.approx(2)


def test_the_table_shows_what_was_measured() -> None:
    result: dict[str, Any] = {
        "chip": "Ascend910B1",
        "arch": "x0_5",
        "image_size": 32,
        "batch_size": 4,
        "precision": "fp32",
        "rounds": 3,
        "steps_per_sync": 2,
        "left_out": {"native": "no such [operator]"},
        "kernels": {
            "gather": {
                "launches": 10.0,
                "device_ms": 1.0,
                "shares": {"TransData": 0.5},
                "top": [{"type": "Conv2D", "launches": 4.0, "share": 0.25}],
            },
            "peer": {"missing": "no table"},
        },
        "kept": "file.json",
        "warning": "these times mean nothing",
        **compared(TURNS, OURS, ["peer"], SETTINGS),
    }
    out = StringIO()
    print_device_step(Console(file=out, width=80), result)
    shown = " ".join(out.getvalue().split())
    for text in (
        *("reference", "gather", "1.500–1.500", "all TransData", "50.0%", "Conv2D", "peer: no table"),
        *("2.000 times the speed of reference", "1.500 times its speed, conclusive"),
        *("not measured: native (no such [operator])", "kept in file.json", "these times mean nothing"),
    ):
        assert text in shown


# ---- the table of kernels from a profiler's files, in the documented format ----


ROWS = """\
Device_id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Num
0,aclnnConvolution_TransData,TransData,AI_VECTOR_CORE,"1700000000.001\t",30.0,1,40
0,aclnnConvolution_TransData,TransData,AI_VECTOR_CORE,"1700000031.001\t",20.0\t,1,40
0,aclnnConvolution_Conv2D,Conv2D,AI_CORE,"1700000051.001\t",30.0,1,20
0,aclnnCat_Slice,Slice,AI_VECTOR_CORE,"1700000081.001\t",5.0,1,40
0,aclnnCat_AsStrided,AsStrided,AI_VECTOR_CORE,"1700000081.001\t",5.0,1,40
0,aclnnBatchNorm_Fill,Fill,AI_VECTOR_CORE,"1700000081.001\t",10.0,1,40
0,hcom_wait,N/A,COMMUNICATION,"1700000081.001\t",N/A,0,0
"""


def test_kernels_of_an_npu(tmp_path: Path) -> None:
    output = tmp_path / "step_1_2_ascend_pt" / "ASCEND_PROFILER_OUTPUT"
    output.mkdir(parents=True)
    (output / "kernel_details.csv").write_text(ROWS)
    table = kernel_table(tmp_path, steps=2)
    assert table is not None
    assert table["launches"] == 3
    assert table["device_ms"] == pytest.approx(0.05)
    assert table["shares"] == pytest.approx({"TransData": 0.5, "Slice": 0.1, "Fill": 0.1})
    assert table["top"][0] == {"type": "TransData", "launches": 1, "share": pytest.approx(0.5)}
    assert [top["type"] for top in table["top"][1:3]] == ["Conv2D", "Fill"]


def test_kernels_of_a_gpu(tmp_path: Path) -> None:
    fill = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)"
    layout = "void cudnn::engines_precompiled::nchwToNhwcKernel<float, float>(float)"
    events = [
        {"ph": "X", "cat": "kernel", "name": fill, "dur": 10.0},
        {"ph": "X", "cat": "kernel", "name": layout, "dur": 30.0},
        {"ph": "X", "cat": "gpu_memset", "name": "Memset (Device)", "dur": 10},
        {"ph": "X", "cat": "kernel", "name": "sm90_xmma_gemm", "dur": 50},
        {"ph": "X", "cat": "cpu_op", "name": "aten::fill_", "dur": 1000},
        {"ph": "M", "name": "process_name"},
    ]
    (tmp_path / "step.1.pt.trace.json").write_text(json.dumps({"traceEvents": events}))
    table = kernel_table(tmp_path, steps=1)
    assert table is not None
    assert table["launches"] == 4
    assert table["shares"] == pytest.approx({"TransData": 0.3, "Slice": 0.0, "Fill": 0.2})
    assert table["top"][0]["type"] == "sm90_xmma_gemm"


def test_a_folder_without_kernels_has_no_table(tmp_path: Path) -> None:
    assert kernel_table(tmp_path, steps=3) is None
    (tmp_path / "step.1.pt.trace.json").write_text('{"traceEvents": []}')
    assert kernel_table(tmp_path, steps=3) is None
