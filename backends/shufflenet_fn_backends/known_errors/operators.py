"""Errors of operators that CANN cannot compile or does not have, or that fail on the device."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError, code

_WHERE_TO_START: Final = (
    "Start in a folder that this user may write to, or name such a one in ASCEND_WORK_PATH and "
    "ASCEND_CACHE_PATH"
)
_WHICH_OPERATOR: Final = "ASCEND_LAUNCH_BLOCKING=1, which makes the traceback name the operator"

ENTRIES: Final = (
    KnownError(
        key="kernel_meta: Permission denied",
        pattern=r"Permission denied: '[^']*kernel_meta",
        meaning="CANN compiles operators into the folder kernel_meta of the current directory, which this "
        "user may not write to",
        fix=_WHERE_TO_START,
        source="vllm-ascend issue 433",
    ),
    KnownError(
        key="Path for [ge.debugDir] is invalid",
        pattern=r"for \[ge\.debugDir\] is invalid",
        meaning="CANN's compiler writes what it needs into the current directory, which this user may not "
        "write to",
        fix=_WHERE_TO_START,
        source="vllm-ascend issue 2748",
    ),
    KnownError(
        key="Failed to compile Op (E40021)",
        pattern=r"E40021|Failed to compile Op \[",
        meaning="CANN could not compile an operator: a Python package or a header of its compiler is "
        "missing, or the compiler itself fails on this operator",
        fix="The lines after 'errormsg/stack' say which. Install the ops package of CANN's version for this "
        "chip, so that little is compiled, and CANN's Python packages and gcc",
        source="xpu_graph issue 304; vllm-omni issue 890",
    ),
    KnownError(
        key="AclSetCompileopt, init env failed (500001)",
        pattern=r"AclSetCompileopt.*error code is 500001|\[Init\]\[Env\]init env failed|"
        r"build op model failed, result = 500001",
        meaning="CANN's operator compiler could not start: numpy 2 with CANN 8.2 or older, or one of the "
        "Python packages that it needs is missing, or the ops package is",
        fix="With CANN 8.2 or older, pip install 'numpy<2'. Else pip install attrs decorator sympy cffi "
        "pyyaml pathlib2 psutil protobuf scipy requests absl-py, check that the ops package is installed, "
        "and read ~/ascend/log/debug/plog",
        source="vllm-ascend issues 2210 and 564 and pull request 472; Ascend/pytorch issue 7; CANN 8.2 "
        "installation guide",
    ),
    KnownError(
        key="not in libopapi.so",
        pattern=r"not in libopapi\.so|libopapi\.so ?not found",
        meaning="torch_npu calls an operator that the installed CANN does not have: CANN is older than "
        "torch_npu expects (under the emulator: the operator is not emulated)",
        fix="Install the CANN that this torch_npu is listed with (docs/ascend.md) and its ops package",
        source="vllm pull request 8054",
    ),
    KnownError(
        key="Cannot find bin of op (561103)",
        pattern=rf"Cannot find bin(ary)? (of|for) op|{code('561103')}",
        meaning="CANN has no binary of an operator for this chip and these dtypes",
        fix="Install the ops package of CANN's version for this chip; with it in place, report the operator "
        "and dtypes that the text names",
        source="Ascend/pytorch, troubleshooting_cases/operator_called_error.md; vllm-ascend issue 4859",
    ),
    KnownError(
        key="EZ1001, 161002",
        pattern=rf"{code('16100[12]')}|EZ1001",
        meaning="an operator refuses its arguments: a dtype, shape or format that it does not take on this "
        "chip",
        fix="Chips of the first generation (Ascend910A, ProA, ProB, B without a number) have no bfloat16: "
        "use --precision O2. Otherwise report it with the text",
        source="LlamaFactory issue 4165; CANN, aclnn return codes (ACLNN_ERR_PARAM_INVALID)",
    ),
    KnownError(
        key="do not support internal format",
        pattern=r"operator \w+ do not support internal format",
        meaning="a tensor has one of Ascend's internal formats, which this operator does not take",
        fix="Set torch.npu.config.allow_internal_format = False before the first tensor; training here does",
        source="ultralytics pull request 22270; Ascend/pytorch, torchnpugen/utils.py line 567",
    ),
    KnownError(
        key="fall back to run on the CPU",
        pattern=r"fall back to run on the CPU|npu_cpu_fallback",
        meaning="an operator does not exist on the NPU and runs on the host, with copies both ways: right, "
        "but slow",
        fix="Nothing that training here uses does this; report the operator that the text names",
        source="Ascend/pytorch, troubleshooting_cases/unsupported_op_called.md",
    ),
    KnownError(
        key="aicpu exception (507018, retCode=0x2a)",
        pattern=rf"retCode=0x2a\b|\[aicpu exception\]|{code('507018')}",
        meaning="an operator failed that runs on the device's own CPU (AI CPU), as random numbers and some "
        "of 64-bit integers do",
        fix="Install the ops package of CANN's version for this chip, and use int32 in code of your own. "
        f"If it stays, run again with {_WHICH_OPERATOR}",
        source="mmcv issue 3203; LlamaFactory issue 5074",
    ),
    KnownError(
        key="vector core execution is abnormal (507035)",
        pattern=rf"{code('507035')}|vector core execution is abnormal|reason=\[?vector core exception",
        meaning="a kernel failed on one of the device's vector cores; from then on every call of this "
        "process fails with the same code",
        fix=f"Start the process again; nothing in it can recover. To find the kernel, set {_WHICH_OPERATOR}, "
        "and read ~/ascend/log/debug/plog",
        source="MinerU issue 5361; Ascend/pytorch issue 66",
    ),
    KnownError(
        key="stream sync timeout (507046, EE1002)",
        pattern=rf"{code('50704[67]')}|EE1002|Stream synchronize timeout",
        meaning="the host waited for the device in vain: an operator, or a collective whose other ranks are "
        "gone, did not end",
        fix="Look for the first error of all ranks (log.txt, log.rankN.txt); a rank that stopped makes all "
        "others wait",
        source="Ascend/pytorch issues 48 and 62",
        echo=True,
    ),
    KnownError(
        key="ACL stream synchronize failed (507010 to 507050)",
        # Codes of this range with another meaning have entries before this one.
        pattern=rf"ACL stream synchronize failed|{code('5070(?:1[0-9]|20|34|36|4[2-5]|49|50)')}",
        meaning="an operator failed on the device some time before this line; 507015 is an exception of a "
        "compute core, 507014 and 507034 one that did not end, 507011 a graph that failed",
        fix=f"Run again with {_WHICH_OPERATOR}, and read ~/ascend/log/debug/plog",
        source="DeepSpeed issue 6555; vllm-ascend issues 1972, 5661 and 7676; Ascend/pytorch, "
        "NPUErrorCodes.h",
    ),
)
