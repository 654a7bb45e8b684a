"""The table of kernels from a profiler's files, in the documented format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shufflenet_fn.bench.device_step import kernel_table

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
