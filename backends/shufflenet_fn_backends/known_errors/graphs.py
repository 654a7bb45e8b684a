"""Errors of NPU graphs, which torch.compile and code of one's own capture; training here does not."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError, code

ENTRIES: Final = (
    KnownError(
        key="TASK_QUEUE_ENABLE = 2 during NPU graph capture",
        pattern=r"Do not support TASK_QUEUE_ENABLE = 2 during NPU graph capture",
        meaning="an NPU graph was to be captured with torch_npu's task queue at level 2, which training here "
        "sets where the variable is unset",
        fix="export TASK_QUEUE_ENABLE=1 before Python is started",
        source="Ascend/pytorch 9e73e70, torch_npu/csrc/core/npu/NPUGraph.cpp line 245",
    ),
    KnownError(
        key="Cannot run aclop operators during NPU graph capture",
        pattern=r"Cannot run aclop operators during NPU graph capture",
        meaning="an operator of the older interface (aclop) ran while a graph was captured, mostly because a "
        "tensor has one of Ascend's internal formats",
        fix="Set torch.npu.config.allow_internal_format = False and "
        "torch.npu.set_compile_mode(jit_compile=False) before the first tensor; training here sets both",
        source="xpu_graph issue 304; vllm-ascend issue 3960; Ascend/pytorch, NPUGraphsUtils.h line 119",
    ),
    KnownError(
        key="stream that was not joined (107025)",
        pattern=rf"stream that was not joined to the original stream|{code('107025')}",
        meaning="while a graph was captured, work went to a second stream that did not come back to the "
        "capturing one; an error inside the capture leaves it so as well",
        fix="Look for an earlier error first. Else let the capturing stream wait for an event of each stream "
        "that it forked, before the capture ends",
        source="vllm-ascend issue 13792 and pull request 15415",
    ),
    KnownError(
        key="stream is captured (107027, 107030)",
        pattern=rf"Not allow to synchronize captured-stream|{code('107027|107030')}|"
        r"current capture mode does not support this operation",
        meaning="a stream was synchronised, or memory copied with waiting, while a graph was captured from "
        "it: by .item(), .cpu(), print, or by ASCEND_LAUNCH_BLOCKING=1 after each operator",
        fix="Unset ASCEND_LAUNCH_BLOCKING, and keep whatever waits for the device out of the capture",
        source="vllm-ascend issues 2138 and 2473 and pull request 14566",
    ),
    KnownError(
        key="Insufficient_Stream_Resources (EL0009, 207008)",
        pattern=rf"EL0009|Insufficient_Stream_Resources|Stream resources are insufficient|{code('207008')}",
        meaning="the device has no more streams; captured graphs keep many of them",
        fix="Capture fewer graphs or sizes, end other processes on the device, and update driver and CANN",
        source="vllm-ascend issue 9691 and docs, faqs",
    ),
)
