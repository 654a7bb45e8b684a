"""Errors of a device: getting hold of it, its memory, operators that it does not have or that crash."""

from __future__ import annotations

from typing import Final

from shufflenet_fn_backends.known_errors.entry import KnownError

ENTRIES: Final = (
    KnownError(
        key="out of memory",
        pattern=r"(NPU|CUDA) out of memory|EL0004|error code is 207001|Memory_Allocation_Failure",
        meaning="the device's memory is full",
        fix="Lower --batch-size, or keep it and raise --accumulate; --precision bf16 or O2 halves the "
        "activations. See npu-smi info (or nvidia-smi) for other processes on the device. Where much is "
        "reserved but not allocated, PYTORCH_NPU_ALLOC_CONF=expandable_segments:True helps",
        source="vllm-omni issue 1199; TouchNet issue 100; vllm-ascend issue 3141",
    ),
    KnownError(
        key="dcmi module initialize failed",
        pattern=r"dcmi mod(ule|el) initialized? failed",
        meaning="the driver gives no access to the devices: another container has them, or this one was not "
        "given all of them",
        fix="Give each container its own devices (--device /dev/davinciN) and the shared ones "
        "(/dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc), and stop others that hold them",
        source="vllm-ascend issue 2698; Ascend/cann-container-image issue 46",
    ),
    KnownError(
        key="invalid device (107001)",
        pattern=r"valid device range is \[0|error code is 107001|Invalid device ID|"
        r"set ASCEND_RT_VISIBLE_DEVICES:\[.*\] error",
        meaning="a device was asked for that this process does not see",
        fix="Devices count from 0 among those that ASCEND_RT_VISIBLE_DEVICES names: lower --devices, or mend "
        "--device-list or the variable",
        source="Ascend/pytorch, TORCH_NPU_COMPACT_ERROR_OUTPUT.md; gpustack issue 3352",
    ),
    KnownError(
        key="E30006, Failed to verify the OPP",
        pattern=r"E30006|Failed to verify the OPP",
        meaning="CANN's operator package is not the one for this chip or not of CANN's version",
        fix="Install the ops package of the same version as the toolkit, for this chip: 910b-ops for Atlas "
        "A2, A3-ops for Atlas A3, 910-ops for Atlas training series",
        source="vllm-ascend issue 4284",
    ),
    KnownError(
        key="Failed to start the device (507033)",
        pattern=r"error code is 507033|Failed to start the device|errorCode = 507033",
        meaning="the device could not be opened: it is held by another process, it has a fault, or driver "
        "and CANN do not go together",
        fix="See npu-smi info for health and processes, wait ten seconds after killing a run, and compare "
        "the driver's version with the one that CANN's release notes ask for",
        source="vllm-ascend issue 4284; Ascend/samples issue 16",
    ),
    KnownError(
        key="AclSetCompileopt, init env failed (500001)",
        pattern=r"AclSetCompileopt.*error code is 500001|\[Init\]\[Env\]init env failed|"
        r"build op model failed, result = 500001",
        meaning="CANN's operator compiler could not start: most often one of the Python packages that it "
        "needs is missing, or the ops package is",
        fix="pip install numpy decorator sympy cffi protobuf attrs pyyaml pathlib2 scipy requests psutil "
        "absl-py, check that the ops package is installed, and read ~/ascend/log/debug/plog",
        source="Ascend/pytorch issue 7 and troubleshooting_cases/initialization_error.md; vllm-ascend 564",
    ),
    KnownError(
        key="Unsupported soc version",
        pattern=r"Unsupported soc version",
        meaning="this torch_npu does not know the chip",
        fix="Install a newer torch_npu, with the torch and CANN that go with it",
        source="Ascend/pytorch, torch_npu/csrc/core/npu/NpuVariables.cpp",
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
        pattern=r"Cannot find bin(ary)? (of|for) op|error code is 561103",
        meaning="CANN has no binary of an operator for this chip and these dtypes",
        fix="Install the ops package of CANN's version for this chip; with it in place, report the operator "
        "and dtypes that the text names",
        source="Ascend/pytorch, troubleshooting_cases/operator_called_error.md; vllm-ascend issue 4859",
    ),
    KnownError(
        key="EZ1001, 161002",
        pattern=r"error code is 16100[12]|EZ1001",
        meaning="an operator refuses its arguments: a dtype, shape or format that it does not take on this "
        "chip",
        fix="Chips of the first generation (Ascend910A, ProA, ProB, B without a number) have no bfloat16: "
        "use --precision O2. Otherwise report it with the text",
        source="LlamaFactory issue 4165; CANN, aclnn return codes (ACLNN_ERR_PARAM_INVALID)",
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
        key="Cannot re-initialize NPU in forked subprocess",
        pattern=r"Cannot re-initialize (NPU|CUDA) in forked subprocess",
        meaning="a process that uses the device was forked",
        fix="Start processes by spawn, as --devices does; do not fork after the first use of the device",
        source="Ascend/pytorch, torch_npu/npu/__init__.py; vllm-ascend issue 4502",
    ),
    KnownError(
        key="context is empty (107002)",
        pattern=r"error code is 107002|The context is empty",
        meaning="a thread or process used the NPU before it had chosen a device",
        fix="Call torch.npu.set_device in every process and thread first; training here does",
        source="FastChat pull request 2843",
    ),
    KnownError(
        key="ECC error",
        pattern=r"reason=\[?(hbm Multi-bit ECC error|device mem error|suspect device mem error)|UCE ERROR",
        meaning="the device's memory has a hardware fault",
        fix="See npu-smi info -t ecc, leave this device out with --device-list, and report it to your vendor",
        source="Ascend/pytorch, torch_npu/csrc/core/npu/NPUException.h",
    ),
    KnownError(
        key="stream sync timeout (507046, EE1002)",
        pattern=r"error code is 507046|EE1002|Stream synchronize timeout",
        meaning="the host waited for the device in vain: an operator, or a collective whose other ranks are "
        "gone, did not end",
        fix="Look for the first error of all ranks (log.txt, log.rankN.txt); a rank that stopped makes all "
        "others wait",
        source="Ascend/pytorch issue 48",
        echo=True,
    ),
    KnownError(
        key="ACL stream synchronize failed (507011 to 507035)",
        pattern=r"ACL stream synchronize failed|SynchronizeStream\w*\(.*error code is 5070(1|3)\d|"
        r"error code is 5070(11|15|18|34|35)",
        meaning="an operator failed on the device some time before this line; 507015 is an exception of a "
        "compute core, 507018 one of the device's own CPU",
        fix="Run again with ASCEND_LAUNCH_BLOCKING=1, which makes the traceback name the operator, and read "
        "~/ascend/log/debug/plog",
        source="LlamaFactory issue 5074; DeepSpeed issue 6555; vllm-ascend issues 1972 and 7676",
    ),
)
